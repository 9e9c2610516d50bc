"""A kubelet that runs Pods as local processes, so that workloads really run without containers."""

from lite_llm.testing.kubelet.backoff import BackOff
from lite_llm.testing.kubelet.kubelet import ProcessKubelet
from lite_llm.testing.kubelet.node import NodeShape

__all__ = ["BackOff", "NodeShape", "ProcessKubelet"]
