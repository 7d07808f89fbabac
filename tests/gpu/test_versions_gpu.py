"""Every version of one certificate on a real device: the same results, on the tensors it may be given."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from lowering.choose import choose, target_of
from lowering.launch import Launcher, load
from lowering.lower import lower
from verifier.certificate import FORMAT, Certificate, digest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]
PAGE = Path(__file__).parents[2] / "docs" / "language.md"
SIZES = [(4, 2, 1000, 1531), (8, 8, 300, 200), (1, 1, 1, 1), (2, 1, 129, 0)]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return loaded("num_warps = 4, warp_specialize = true", tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    return loaded("num_warps = 8, warp_specialize = true, persistent = true", tmp_path_factory.mktemp("turning"))


def loaded(schedule: str, folder: Path) -> Launcher:
    """The kernel of docs/language.md under this schedule."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    text = found.group(1).replace("num_warps = 8, num_stages = 3", schedule)
    bound = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": "bf16", "D": 64})
    program = check(parse(text), bound)
    certificate = Certificate(
        {
            "format": FORMAT,
            "subject": {
                "candidate": {"text": text, "sha256": digest(text)},
                "spec": {"text": bound.spec.source, "sha256": digest(bound.spec.source)},
                "settings": dict(bound.settings),
            },
            "widths": {kernel.name: 64 for kernel in program.kernels},
            "index_widths": {kernel.name: 32 for kernel in program.kernels},
        }
    )
    path = folder / "attention.cert.json"
    lower(certificate, program, bound, targets=(target_of(torch.device("cuda")),)).save(path)
    return load(path)


def only(launcher: Launcher, name: str) -> Launcher:
    """With one version, not asked whether it agrees (and the last, where its conditions do not hold)."""
    version = next(v for v in launcher.versions if v.name == name)
    version = replace(version, when=[condition for condition in version.when if condition[0] != "agrees"])
    return replace(launcher, versions=(version, launcher.versions[-1]))


def inputs(h: int, g: int, m: int, n: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {"Q": (2, h, m, 64), "K": (2, g, n, 64), "V": (2, g, n, 64)}
    return {name: torch.randn(shape, device="cuda", dtype=torch.bfloat16) for name, shape in shapes.items()}


@pytest.mark.parametrize(("h", "g", "m", "n"), SIZES)
@pytest.mark.parametrize("name", ["specialised", "descriptors"])
def test_each_version_computes_the_same(launcher: Launcher, name: str, h: int, g: int, m: int, n: int) -> None:
    given = inputs(h, g, m, n)
    found, wanted = only(launcher, name)(**given), only(launcher, "pointers")(**given)
    torch.testing.assert_close(found["O"].float(), wanted["O"].float(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found["LSE"], wanted["LSE"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("h", "g", "m", "n"), [*SIZES, (64, 8, 3001, 200), (64, 64, 129, 1000)])
@pytest.mark.parametrize("name", ["hopper persistent", "descriptors persistent", "pointers persistent"])
def test_persistent_programs_compute_the_same(turning: Launcher, name: str, h: int, g: int, m: int, n: int) -> None:
    """Among the sizes: fewer tiles than run at once, and many times as many."""
    if name not in [v.name for v in turning.versions]:
        pytest.skip(f"no version {name} for this device")
    given = inputs(h, g, m, n)
    found, wanted = only(turning, name)(**given), only(turning, "pointers")(**given)
    torch.testing.assert_close(found["O"].float(), wanted["O"].float(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found["LSE"], wanted["LSE"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["specialised", "descriptors"])
def test_views_that_tma_can_address(launcher: Launcher, name: str) -> None:
    fused = torch.randn(2, 333, 3, 4, 64, device="cuda", dtype=torch.bfloat16)
    given = dict(zip("QKV", (fused[:, :, part].transpose(1, 2) for part in range(3)), strict=True))
    one = {key: x[:1, :1] for key, x in given.items()}  # batch and heads of extent 1
    for call in (given, one):
        found, wanted = only(launcher, name)(**call), only(launcher, "pointers")(**call)
        torch.testing.assert_close(found["O"].float(), wanted["O"].float(), rtol=2e-2, atol=2e-2)


def test_what_tma_cannot_address_runs_through_pointers(launcher: Launcher) -> None:
    given = inputs(2, 2, 100, 130)
    odd = torch.randn(1 + given["K"].numel(), device="cuda", dtype=torch.bfloat16)[1:].view_as(given["K"])
    assert choose(launcher.versions, target_of(odd.device), given | {"K": odd, "O": given["Q"]}, {}).name == "pointers"
    assert launcher(**given | {"K": odd})["O"].isfinite().all()


@pytest.mark.parametrize("name", ["specialised", "descriptors"])
def test_a_prepared_call_is_captured_in_a_graph(launcher: Launcher, name: str) -> None:
    given = inputs(4, 2, 200, 300)
    run = only(launcher, name).prepare(**given)
    wanted = run()["O"].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    outputs["O"].zero_()
    graph.replay()
    torch.testing.assert_close(outputs["O"], wanted)
