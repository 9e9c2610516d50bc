"""A CUDA device in ordinary memory, as strict as a real one.

An operation that mixes its tensors with the host's fails, kernels take its addresses alone and run
in Triton's interpreter, graphs compute again. What it can't show is what a device computes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.dlpack import from_dlpack

CUDA = torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.copy_, _aten.lift_fresh, _aten.to}


class OnDevice(Tensor):
    """A tensor that says it is on the device, over one that is not."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        make: Any = Tensor._make_wrapper_subclass
        given: OnDevice = make(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
        )
        given.held = inner
        return given

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __invert__(self) -> Tensor:
        return self.bitwise_not()

    def tolist(self) -> Any:
        return self.held.tolist()

    def __bool__(self) -> bool:
        return bool(self.held)

    def __int__(self) -> int:
        return int(self.held)

    def __getitem__(self, index: Any) -> Any:  # torch's own would set the device first
        return OnDevice(self.held[bare_of(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        is_foreign = isinstance(value, Tensor) and not isinstance(value, OnDevice)
        assert not is_foreign, "the host's numbers do not go to the device by themselves"
        self.held[bare_of(index)] = bare_of(value)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's annotation forgets the function
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Makes tensors on the device where they are asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


def bare_of(given: Any) -> Any:
    return tree_map(lambda each: each.held if isinstance(each, OnDevice) else each, given)


def of_this_thread() -> None:
    """The device is there for all the life of the calling thread."""
    Device().__enter__()  # type: ignore[no-untyped-call]  # torch's is untyped


def carried_out(func: Any, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """An operation on the host, after a look at what it takes from where."""
    tensors = [each for each in tree_flatten((args, named))[0] if isinstance(each, Tensor)]
    there = [isinstance(each, OnDevice) for each in tensors]
    devices = [each for each in (*args, *named.values()) if isinstance(each, torch.device)]
    wanted = devices[0] if devices else None
    is_there = any(there) if wanted is None else wanted.type == "cuda"
    if func.overloadpacket not in _COPIES and any(there):
        # As on a GPU: numbers may come along, and the host's indices may choose.
        foreign = [
            each
            for each, is_ours in zip(tensors[:1], there[:1], strict=True)
            if not is_ours and each.dim()
        ]
        if func is not _aten.index.Tensor:
            foreign += [
                each
                for each, is_ours in zip(tensors[1:], there[1:], strict=True)
                if not is_ours and each.dim()
            ]
        if foreign:
            raise RuntimeError(f"{func} mixes the device's tensors with the host's")
    bare = tree_map(_at_home, (args, named))
    result = func(*bare[0], **bare[1])
    if func.overloadpacket in (_aten._to_copy, _aten.to) and result is bare[0][0]:
        return args[0] if is_there == there[0] else OnDevice(result) if is_there else result
    if tensors and isinstance(result, Tensor) and result is bare[0][0]:
        return args[0]  # changed in place
    return tree_map(OnDevice, result, is_leaf=_is_tensor) if is_there else result


def _at_home(given: Any) -> Any:
    return torch.device("cpu") if isinstance(given, torch.device) else bare_of(given)


def _is_tensor(given: object) -> bool:
    return isinstance(given, Tensor)


class Bytes:
    """What CuPy's arrays are to the tiers."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.data = SimpleNamespace(ptr=array.ctypes.data)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, part: slice) -> Bytes:
        return Bytes(self.array[part])


def fake_cupy(locked: list[int]) -> Any:
    """The few calls that the tiers make, on ordinary memory."""

    def event(**_: Any) -> Any:
        return SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)

    def copied(target: int, source: int, count: int, kind: int, stream: int) -> None:
        assert kind == 1
        ctypes.memmove(target, source, count)

    runtime = SimpleNamespace(
        memcpyAsync=copied,
        memcpyHostToDevice=1,
        hostRegister=lambda address, size, flags: locked.append(address),
        hostUnregister=locked.remove,
    )
    cuda = SimpleNamespace(
        alloc=lambda count: count,
        memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        runtime=runtime,
        Device=nullcontext,
        Stream=lambda **_: SimpleNamespace(ptr=0),
        Event=event,
        get_elapsed_time=lambda began, done: 1.0,
    )
    return SimpleNamespace(cuda=cuda, ndarray=lambda shape, **_: Bytes(np.zeros(shape, np.uint8)))


class Captures:
    """Stands in for CUDA's graphs: a replay computes again."""

    replayed = 0

    def capture(self, compute: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        result_RV = compute()

        @torch.inference_mode()
        def replay() -> None:
            result_RV[:] = compute()
            Captures.replayed += 1

        return SimpleNamespace(num_bytes=1, replay=replay), result_RV


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A device for this process, and what the tests ask of it.

    ``locked`` are the addresses of the host's memory that is locked for it, ``enter`` is for other
    threads that compute with it.
    """
    from lite_llm.engine import device, graphs
    from lite_llm.experts import stored
    from lite_llm.kernels import triton_launch, triton_linear, triton_paged
    from lite_llm.tiers import device_tier, memory

    locked: list[int] = []
    cupy = fake_cupy(locked)
    for module in (memory, device_tier):
        monkeypatch.setattr(module, "cupy", lambda: cupy)
    made = from_dlpack

    def tensor(view: Any) -> Tensor:
        return OnDevice(torch.from_numpy(view.array)) if isinstance(view, Bytes) else made(view)

    monkeypatch.setattr(stored, "from_dlpack", tensor)
    launch = triton_launch.Kernel.launch

    def launched(self: Any, grid: Any, *arguments: Any, **named: Any) -> None:
        for each in arguments:
            assert not isinstance(each, Tensor) or isinstance(each, OnDevice), "the host's address"
        launch(self, grid, *(getattr(each, "held", each) for each in arguments), **named)

    monkeypatch.setattr(triton_launch.Kernel, "launch", launched)
    for module in (triton_linear, triton_paged):  # proofs have tests of their own, and take long
        monkeypatch.setattr(module, "_is_proven", lambda *_: False)
    Captures.replayed = 0
    monkeypatch.setattr(graphs, "CudaCapturer", Captures)
    monkeypatch.setattr(device, "find_spec", lambda name: name)
    event = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    stream = SimpleNamespace(synchronize=lambda: None)

    for name, value in {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "mem_get_info": lambda device: (64 << 20, 80 << 20),
        "current_stream": lambda device=None: stream,
        "Event": lambda: event,
        "Stream": lambda device=None: stream,
        "stream": nullcontext,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    made_tensor = torch.tensor

    def tensor_of(data: Any, *, device: Any = None, **named: Any) -> Tensor:
        result = made_tensor(data, **named)  # with a device it would pass below the mode
        return result if device is None else result.to(device)

    monkeypatch.setattr(torch, "tensor", tensor_of)
    with Device():
        yield SimpleNamespace(locked=locked, captures=Captures, enter=of_this_thread)
