"""Other forms of a trained model: GGUF and its quantizations, CTranslate2."""
