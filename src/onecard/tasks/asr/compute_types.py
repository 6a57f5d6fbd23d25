"""What CTranslate2 computes in. Light: plans ask too, and only a 16-bit type on a CPU loads it."""

from onecard.errors import SettingsError

ON_EVERY_DEVICE = ("int8", "float32")


def resolve(setting: str, on_card: bool) -> str:
    """`auto` by the device. Raises SettingsError for a type that the processor has no kernels for:
    CTranslate2 does not emulate 16 bits."""
    if setting == "auto":
        return "float16" if on_card else "int8"
    if on_card or setting in ON_EVERY_DEVICE:
        return setting
    # 0.2 s that no other setting needs
    import ctranslate2

    if setting in ctranslate2.get_supported_compute_types("cpu"):
        return setting
    raise SettingsError(
        f"this processor does not compute in {setting}",
        why="CTranslate2 has no kernels for it here, and emulates none",
        fix="leave --compute_type out (int8 on a CPU), or --compute_type float32",
    )
