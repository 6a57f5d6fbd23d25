"""Output folder, checkpoints, interrupts and seeds, without a model."""

import os
import signal
import threading

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
from onecard.errors import DataError, SettingsError  # noqa: E402
from onecard.training import (  # noqa: E402
    checkpoints,
    optimizers,
    output_dir,
    seeds,
    trainer_checkpoints,
)
from onecard.training.interrupt import graceful_interrupt  # noqa: E402

CPU = torch.device("cpu")

# Output folder


def manifest(folder, run_id="one", resume=False, **identity):
    output_dir.write_manifest(folder, {"seed": 0, **identity}, run_id, resume=resume, explicit=True)


def test_the_folder_of_another_run_is_refused(tmp_path):
    manifest(tmp_path)
    with pytest.raises(SettingsError, match="holds another training"):
        manifest(tmp_path, "two")


def test_a_run_may_write_its_own_folder_again(tmp_path):
    """As after an out-of-memory error, with smaller config."""
    manifest(tmp_path)
    manifest(tmp_path, batch=1)


def test_another_training_cannot_be_resumed(tmp_path):
    manifest(tmp_path)
    with pytest.raises(SettingsError, match="differs") as error:
        manifest(tmp_path, "two", resume=True, seed=1)
    assert "seed 0" in error.value.why


def test_the_same_training_is_resumed_under_a_new_run(tmp_path):
    manifest(tmp_path)
    manifest(tmp_path, "two", resume=True)
    with pytest.raises(SettingsError, match="holds another training") as error:
        manifest(tmp_path, "three")
    assert "run two" in error.value.why


def test_an_empty_folder_cannot_be_resumed(tmp_path):
    with pytest.raises(SettingsError, match="nothing to resume"):
        manifest(tmp_path, resume=True)


def test_a_folder_is_locked_until_the_training_ends(tmp_path):
    out = tmp_path / "out"
    with (
        output_dir.lock(out),
        pytest.raises(SettingsError, match="in use"),
        output_dir.lock(out),
    ):
        pass
    with output_dir.lock(out):
        pass


@pytest.mark.parametrize("before", ["adamw", "adamw-8bit", "lion", "adafactor"])
@pytest.mark.parametrize("after", ["adamw", "adamw-8bit", "lion", "sgd-momentum"])
def test_another_optimizer_starts_with_moments_of_its_own(before, after):
    """As when memory ran out: it makes a step like a fresh one, or like the same one restored."""

    def build(name):
        weight = torch.nn.Parameter(torch.ones(64, 128))
        weight.grad = torch.full((64, 128), 0.5)
        return weight, optimizers.create(name, [{"params": [weight], "lr": 1e-2}], CPU)

    _, old = build(before)
    old.step()
    state = {key: value.clone() for key, value in checkpoints.optimizer_state(old).items()}
    weight, new = build(after)
    checkpoints.restore_optimizer(new, state, checkpoints.optimizer_metadata(old))
    assert bool(new.state_dict()["state"]) == (before == after)
    new.step()
    assert weight.isfinite().all() and (weight < 1).any()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SettingsError, match="cannot be written to"),
        output_dir.lock(tmp_path / "file" / "out"),
    ):
        pass


# Checkpoints


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit", "adafactor", "lion", "sgd-momentum"])
def test_a_restored_optimizer_makes_the_same_next_step(tmp_path, name):
    def steps(weights, optimizer, numbers):
        for number in numbers:
            draw = torch.Generator().manual_seed(number)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=draw)
            optimizer.step()

    def build(values):
        weights = [torch.nn.Parameter(value.clone()) for value in values]
        groups = [{"params": weights, "lr": 1e-2, "weight_decay": 0.01}]
        return weights, optimizers.create(name, groups, torch.device("cpu"))

    start = [torch.ones(64, 128), torch.ones(5)]
    whole, optimizer = build(start)
    steps(whole, optimizer, range(3))
    state = checkpoints.optimizer_state(optimizer)
    checkpoints.save(tmp_path, 3, {**checkpoints.with_prefix("optim.", state)})
    kept = [weight.detach().clone() for weight in whole]
    steps(whole, optimizer, range(3, 5))
    resumed, fresh = build(kept)
    stored = checkpoints.load(checkpoints.last(tmp_path))
    checkpoints.load_optimizer_state(fresh, checkpoints.select("optim.", stored))
    steps(resumed, fresh, range(3, 5))
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)


def save(folder, step, value=0.0):
    checkpoints.save(folder, step, {"net.w": torch.full((3,), value)}, {"state": str(step)})


def test_the_newest_two_checkpoints_are_kept_in_the_order_of_steps(tmp_path):
    """step-000100 has six digits, as asr wrote them before."""
    (tmp_path / "step-000100.safetensors").write_bytes(b"")
    for step in (20, 3, 110):
        save(tmp_path, step)
    steps = sorted(checkpoints.step_of(path) for path in tmp_path.iterdir())
    assert steps == [100, 110]
    assert checkpoints.step_of(checkpoints.last(tmp_path)) == 110


def test_a_checkpoint_comes_back(tmp_path):
    save(tmp_path, 7, 2.5)
    path = checkpoints.last(tmp_path)
    assert checkpoints.read_metadata(path) == {"state": "7"}
    weight = torch.zeros(3, requires_grad=True)
    with checkpoints.restoring(path):
        checkpoints.copy_into({"w": weight}, checkpoints.select("net.", checkpoints.load(path)))
    assert weight.tolist() == [2.5] * 3


@pytest.mark.parametrize("weights", [{"other": torch.zeros(3)}, {"w": torch.zeros(4)}])
def test_another_models_checkpoint_is_refused(tmp_path, weights):
    save(tmp_path, 7)
    path = checkpoints.last(tmp_path)
    tensors = checkpoints.select("net.", checkpoints.load(path))
    with pytest.raises(DataError, match="another model"), checkpoints.restoring(path):
        checkpoints.copy_into(weights, tensors)


def step_of_adamw(optimizer, weight, grad):
    weight.grad = torch.tensor(grad)
    optimizer.step()


def test_adamw_continues_as_if_it_had_not_stopped():
    unbroken, resumed = (torch.zeros(2, requires_grad=True) for _ in range(2))
    first, second = (torch.optim.AdamW([w], lr=0.1) for w in (unbroken, resumed))
    step_of_adamw(first, unbroken, [1.0, -2.0])
    state = {key: value.clone() for key, value in checkpoints.optimizer_state(first).items()}
    with torch.no_grad():
        resumed.copy_(unbroken)
    checkpoints.load_optimizer_state(second, state)
    for optimizer, weight in ((first, unbroken), (second, resumed)):
        step_of_adamw(optimizer, weight, [0.5, 0.5])
    assert torch.equal(unbroken, resumed)


def test_an_incomplete_checkpoint_of_transformers_is_removed(tmp_path):
    for step, complete in ((2, True), (10, True), (30, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            trainer_checkpoints.mark_complete(tmp_path / f"checkpoint-{step}", "adamw_torch")
    assert trainer_checkpoints.last(tmp_path).name == "checkpoint-10"
    trainer_checkpoints.remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]


@pytest.mark.parametrize(("optim", "remains"), [("adamw_torch", True), ("adamw_8bit", False)])
def test_only_the_state_of_the_same_optimizer_remains(tmp_path, optim, remains):
    trainer_checkpoints.mark_complete(tmp_path, "adamw_torch")
    (tmp_path / "optimizer.pt").touch()
    trainer_checkpoints.drop_foreign_optimizer(tmp_path, optim)
    assert (tmp_path / "optimizer.pt").exists() == remains


# Interrupts and seeds


def test_the_first_signal_is_a_request_and_the_second_one_ends():
    before = signal.getsignal(signal.SIGINT)
    with graceful_interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_signals_are_left_alone():
    before, inside = signal.getsignal(signal.SIGINT), []

    def run():
        with graceful_interrupt():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]


def test_a_step_draws_the_same_whatever_ran_before():
    seeds.seed_step(3, 7)
    first = torch.rand(4)
    torch.rand(100)
    seeds.seed_step(3, 7)
    assert torch.equal(torch.rand(4), first)
    seeds.seed_step(3, 8)
    assert not torch.equal(torch.rand(4), first)
