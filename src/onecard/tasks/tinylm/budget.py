"""How many steps fit into `--minutes`, beside validations and the final score. Pure arithmetic."""

from dataclasses import dataclass

VALIDATIONS = 20
"""Of a training that nothing was said about."""
MIN_VALIDATIONS = 4
QUICK_VAL_TOKENS = 65_536
"""Of the validation text, what is scored during training; the final score reads all of it."""
MIN_VAL_TOKENS = 8_192
"""Of a validation: with fewer its loss is so noisy that the best weights are chosen by chance."""
VAL_SHARE = 0.1
"""Of the time, at most for validations where their number was not set: the steps learn."""
OVERHEAD = 1.05
"""Checkpoints and the record take some 5 % beside the steps."""
MAX_FINAL_SHARE = 0.5
"""Of the time, at most kept for the final score: a text so long is scored beyond the minutes."""
MIN_STEPS = 20


@dataclass(frozen=True)
class Costs:
    """Measured on this machine, in seconds."""

    step_s: float
    val_token_s: float
    """Of one token of a validation."""
    sample_s: float
    """Of the text that is generated beside a validation."""
    spent_s: float
    """Before the first step: measuring, compiling."""


@dataclass(frozen=True)
class Budget:
    steps: int
    eval_steps: int
    val_tokens: int
    final_s: float
    """For the score over the whole held-out text."""
    val_s: float
    """Of one validation with its sample."""

    def seconds(self, costs: Costs) -> float:
        """Of everything."""
        n_validations = -(-self.steps // self.eval_steps)
        work_s = self.steps * costs.step_s * OVERHEAD + n_validations * self.val_s
        return costs.spent_s + work_s + self.final_s

    def render(self, minutes: float, costs: Costs) -> str:
        n_validations = -(-self.steps // self.eval_steps)
        return (
            f"max_steps {self.steps}: {minutes:g} min hold {self.steps * costs.step_s:.0f} s of "
            f"steps ({costs.step_s:.3f} s each), {n_validations} validations of "
            f"{self.val_tokens:,} tokens ({self.val_s:.1f} s each) and {self.final_s:.0f} s for "
            "the final score"
        )


def fit_minutes(seconds: float, costs: Costs, n_val_tokens: int, eval_steps: int) -> Budget:
    """The most steps whose training ends in time, and at least MIN_STEPS.

    `eval_steps`: as set, or 0. `n_val_tokens`: of the whole held-out text.
    """
    final_s = n_val_tokens * costs.val_token_s
    left_s = seconds - costs.spent_s - min(final_s, MAX_FINAL_SHARE * seconds)
    val_tokens = min(QUICK_VAL_TOKENS, n_val_tokens)
    if eval_steps:
        val_s = val_tokens * costs.val_token_s + costs.sample_s
        steps = int(left_s / (costs.step_s * OVERHEAD + val_s / eval_steps))
        return Budget(max(MIN_STEPS, steps), eval_steps, val_tokens, final_s, val_s)
    # smaller validations first, then fewer
    affordable_s = VAL_SHARE * left_s
    tokens = (affordable_s / VALIDATIONS - costs.sample_s) / max(costs.val_token_s, 1e-12)
    val_tokens = max(min(MIN_VAL_TOKENS, n_val_tokens), min(val_tokens, int(tokens)))
    val_s = val_tokens * costs.val_token_s + costs.sample_s
    n_validations = VALIDATIONS
    if val_s * VALIDATIONS > affordable_s:
        n_validations = max(MIN_VALIDATIONS, int(affordable_s / val_s))
    steps = max(MIN_STEPS, int((left_s - n_validations * val_s) / (costs.step_s * OVERHEAD)))
    return Budget(steps, -(-steps // n_validations), val_tokens, final_s, val_s)
