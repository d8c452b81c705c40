"""Names of the kernels of a captured graph, from the text that the driver writes of it."""

import pytest

from costmodel.live import graph_kernels

#: As CUDA 13 writes it, cut down to what is read.
CUDA = r"""digraph dot {
subgraph cluster_10 {
label="graph_10" graph[style="dashed"];
"graph_10_node_0"[style="bold" shape="record" label="{KERNEL
| {ID | 0 (topoId: 15) | _ZN5aiter33reduce_scatter_cross_device_storeIDF16bLi8EEEv\<\<\<8,512,0\>\>\>}
| {{node handle | func handle} | {0x0000000024CE1A78 | 0x0000000024443500}}
}"];

"graph_10_node_1"[style="bold" shape="record" label="{KERNEL
| {ID | 1 (topoId: 14) | fused_one_stage\<\<\<1,128,0\>\>\>}
}"];
"graph_10_node_2"[style="solid" shape="record" label="{
MEMCPY
| {{ID | node handle} | {2 | 0x0000000024CE0BA8}}
}"];
"graph_10_node_0" -> "graph_10_node_1" [headlabel=0];
}
}
"""

#: A plainer form: an identifier and the name, on lines of their own.
PLAIN = r"""digraph dot {
"graph_0_node_0"[style="solid" shape="rectangle" label="0\nvoid aiter::allreduce_fusion_kernel_1stage<__bf16, __bf16, 8, false>(int)\n"];
"graph_0_node_1"[style="solid" shape="rectangle" label="1\n_ZN5aiter10some_thingEv.kd\n"];
"graph_0_node_2"[style="solid" shape="rectangle" label="2\nMEMSET\n"];
}
"""


def test_the_kernels_of_a_graph_are_read_in_order():
    assert graph_kernels.parse(CUDA) == (
        "_ZN5aiter33reduce_scatter_cross_device_storeIDF16bLi8EEEv", "fused_one_stage",
    )  # fmt: skip
    assert graph_kernels.parse(PLAIN) == (
        "void aiter::allreduce_fusion_kernel_1stage<__bf16, __bf16, 8, false>(int)",
        "_ZN5aiter10some_thingEv.kd",
    )


@pytest.mark.parametrize("text", ["", "no graph", 'label="', 'label="{KERNEL | x}"'])
def test_a_text_without_kernels_has_none(text):
    assert graph_kernels.parse(text) == ()


class Graph:
    """As much of torch's graph as is asked."""

    def __init__(self, text=None):
        self.text, self.ready = text, False

    def debug_dump(self, path):
        if self.text is None:
            raise RuntimeError("the graph was not kept")
        with open(path, "w") as stream:
            stream.write(self.text)

    def instantiate(self):
        self.ready = True


def test_a_graph_that_does_not_tell_has_no_names_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_kernels.tempfile, "tempdir", str(tmp_path))
    assert len(graph_kernels.captured(Graph(CUDA))) == 2
    assert graph_kernels.captured(Graph()) == ()
    assert graph_kernels.captured(object()) == ()  # an older torch
    assert [*tmp_path.iterdir()] == []


def test_a_kept_graph_is_made_ready():
    graph = Graph()
    graph_kernels.complete(graph)
    graph_kernels.complete(object())
    assert graph.ready
