"""The Llama of one sequence that the engine still runs, until it moves to the decoder."""
