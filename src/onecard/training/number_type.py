"""What a training computes in, told at its start."""

from onecard.memory import number_types
from onecard.memory.devices import Device
from onecard.reporting import Reporter


def announce(bf16: bool, device: Device, reporter: Reporter) -> None:
    """As the plan has it; a warning where bf16 was asked for and is emulated.

    It is done as asked: the weights take half of the memory in bf16, which may be why.
    """
    tell = reporter.warn if bf16 and not number_types.bf16_unit(device) else reporter.line
    tell(number_types.describe(bf16, device))
