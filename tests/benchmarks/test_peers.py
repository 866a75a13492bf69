"""Each network against its peer in PyTorch, at sizes that take no time: outputs, loss, gradient, and one case to the end."""

import os

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medjax import bench  # noqa: E402

cases, measure, networks, worker, remote = (bench.load(n) for n in ("cases", "measure", "networks", "worker", "peer"))
peer = bench.load("peers.torch")
TINY = measure.Plan(repeat_s=0.001, least=2, most=2, seconds=0.0)
SEQUENCE = {"steps": 7, "inputs": 3, "features": 6, "classes": 3, "batch": 4}
FEWER = {"width": 4, "blocks": (1, 1), "classes": 3, "batch": 4}
SMALL = (
    cases.Case("basic", "resnet", {"depth": 18, "small_images": True, "side": 8, "channels": 1, **FEWER}, 1),
    cases.Case("bottleneck", "resnet", {"depth": 50, "small_images": False, "side": 28, "channels": 3, **FEWER}, 1),
    cases.Case("unet2d", "unet", {"shape": (12, 8), "features": 2, "depth": 2, "classes": 3, "batch": 2}, 1),
    cases.Case("unet3d", "unet", {"shape": (4, 4, 8), "features": 2, "depth": 1, "classes": 2, "batch": 2}, 1),
    cases.Case("dcgan", "dcgan", {"latent": 5, "features": 2, "channels": 2, "batch": 3}, 1),
    cases.Case("lstm", "recurrent", {"cell": "lstm", **SEQUENCE}, 1),
    cases.Case("gru", "recurrent", {"cell": "gru", **SEQUENCE}, 1),
    *(
        cases.Case(f"{cell}_packed", "recurrent", {"cell": cell, **SEQUENCE, "shortest": 2}, 1)
        for cell in ("simple", "lstm", "gru")
    ),
)
GRU = next(case for case in SMALL if case.name == "gru")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    # The compiler need not try hard.
    monkeypatch.setattr(worker, "OPTIONS", {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


class Near:
    """A peer in this process: nothing is timed here."""

    def __init__(self, module, *args, **options):
        self.peer = peer.build(*args, **options)
        self.peer.peak_mib, self.peer.pid = lambda: 1.0, os.getpid()

    def __enter__(self):
        return self.peer

    def __exit__(self, *exception):
        pass


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_same_network_same_step(case):
    rows = []
    worker.measure_case(case, cases.MODES, plan=TINY, vs="torch", emit=rows.append, connect=Near)
    assert [row["name"] for row in rows] == [f"{case.name}/train", f"{case.name}/infer"]
    for row, checked in zip(rows, ({"loss", "gradient"}, {"output"})):
        assert set(row["errors"]) == checked
        assert all(error < 2e-5 for error in row["errors"].values()), row["errors"]
        assert row["repeats"] == 2
        assert row["ratio_vs_torch"] > 0
        assert row["torch"]["by"] == "torch"
        assert row["examples_per_s"] == pytest.approx(1e3 * case.sizes["batch"] / row["step_ms"])
        assert row["gflop_per_s"] == pytest.approx(row["flops"] / row["step_ms"] / 1e6)
    assert rows[0]["flops"] > 2 * rows[1]["flops"] > 0


def test_the_cases_are_the_published_networks():
    counts = {"resnet50": 25_557_032, "resnet18": 11_689_512 - 3 * 49 * 64 + 9 * 64 - 990 * 513}
    for case in cases.CASES:
        if case.name in counts:
            values = jax.eval_shape(networks.build(case.family, case.sizes).task.init, jax.random.key(0), batch_of(case))
            assert sum(leaf.size for leaf in jax.tree.leaves(values.params)) == counts[case.name]
            sizes = {k: v for k, v in case.sizes.items() if k not in ("side", "batch")}
            assert sum(p.numel() for p in peer.ResNet(**sizes).parameters()) == counts[case.name]


def batch_of(case):
    problem = networks.build(case.family, case.sizes)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in problem.batch.items()}


def test_the_check_sees_a_difference(monkeypatch):
    """A peer that forgets a layer's bias must not be timed."""
    honest = peer.fill

    def careless(module, values):
        honest(module, {path: value * (path[-1] != "bias") for path, value in values.items()})

    monkeypatch.setattr(peer, "fill", careless)
    with pytest.raises(worker.Disagreement, match="gru/infer: the output differs"):
        worker.measure_case(GRU, ("infer",), plan=TINY, vs="torch", emit=lambda row: None, connect=Near)


def test_arrays_must_have_a_place_on_both_sides():
    module = peer.Recurrent(cell="lstm", inputs=2, features=3, classes=2)
    with pytest.raises(KeyError):
        peer.fill(module, {})
    values = {leaf.path: leaf.to_flax(leaf.tensor.detach().numpy()) for leaf in peer.leaves(module)}
    peer.fill(module, values)
    with pytest.raises(ValueError, match="no \\('Other'"):
        peer.fill(module, {**values, ("Other", "kernel"): np.zeros(2)})


def test_first_step_is_from_the_latents_of_the_task():
    case = next(case for case in SMALL if case.family == "dcgan")
    problem = networks.build(case.family, case.sizes)
    state = networks.start(problem)
    z = networks.first_latents(problem, state)
    assert z.shape == (3, 5)
    model = peer.build(case.family, case.sizes, worker._values(state), problem.batch)
    loss, _ = model.gradients(z)
    other, _ = model.gradients(z + 1)
    assert abs(loss - other) > 1e-3


def test_a_peer_in_a_process_of_its_own(tmp_path):
    case = GRU
    problem = networks.build(case.family, case.sizes)
    values = worker._values(networks.start(problem))
    near = peer.build(case.family, case.sizes, values, problem.batch)
    with remote.Remote("torch", case.family, case.sizes, values, problem.batch, compiled=False) as far:
        np.testing.assert_allclose(far.output(), near.output(), rtol=1e-6)
        loss, gradients = far.gradients(None)
        expected, others = near.gradients(None)
        assert loss == pytest.approx(expected)
        assert set(gradients) == set(others)
        far.train(2)
        near.train(2)
        np.testing.assert_allclose(far.output(), near.output(), rtol=1e-5)
        assert far.peak_mib() > 10
        with pytest.raises(remote.PeerFailed, match="KeyError"):
            far._ask("dance")
        process = far._process
    assert process.poll() is not None


def test_a_peer_that_cannot_begin():
    with (
        remote.Remote("torch", "recurrent", {"cell": "lstm"}, {}, {}, compiled=False) as far,
        pytest.raises(remote.PeerFailed, match="the peer"),
    ):
        far.output()


def test_both_sides_write_the_same_texts():
    sizes = {"batch": 4, "source": 9, "most": 12, "width": 3, "pieces": 40, "words": 8, "encoder": 8, "features": 16}
    row = bench.load("beam").measure({**sizes, "repeats": 1})
    assert row["agreement"] == 1
    assert row["compiled"] == 1
    assert row["pieces"] > 0


def test_three_detectors_find_the_same_boxes():
    sizes = {"batch": 2, "height": 64, "width": 96, "classes": 2, "encoder": 8, "features": 16, "depth": 1, "most": 20}
    row = bench.load("detector").measure({**sizes, "repeats": 1})
    assert row["agreement"] == {"host": 1, "torch": 1}
    assert row["compiled"] == 1
    assert row["boxes"] == 40
