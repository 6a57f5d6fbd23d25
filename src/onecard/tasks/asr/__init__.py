"""asr: transcription, speakers, punctuation, and Whisper fine-tuned for your domain."""

from onecard.tasks.base import Command, PlanPreset, Task

DECODE = ("faster-whisper", "soxr", "scipy", "budoux", "wcwidth", "langcodes")
TRAIN = (*DECODE, "torch", "transformers", "peft")

TASK = Task(
    name="asr",
    summary="transcribe speech, tell who spoke when, restore punctuation, and fine-tune Whisper "
    "for your domain",
    commands={
        "transcribe": Command(
            "transcribe:transcribe",
            "transcribe sound files, films and folders of them",
            "configs:TranscribeConfig",
            "audio",
            requires=DECODE,
        ),
        "enroll": Command(
            "enroll:enroll",
            "know a voice by its name: enroll NAME clip.wav",
            "configs:EnrollConfig",
            "audio",
            requires=(*DECODE, "torch"),
            recorded=False,
        ),
        "train": Command(
            "train:train",
            "fine-tune Whisper on sounds with their texts, scored before and after",
            "configs:TrainConfig",
            "dataset",
            requires=TRAIN,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "word and speaker errors, speed and latency on a folder with references",
            "configs:EvaluateConfig",
            "references",
            requires=(*DECODE, "torch", "transformers", "pyannote.metrics"),
        ),
        "serve": Command(
            "serve:serve",
            "answer OpenAI's /v1/audio/transcriptions",
            "configs:ServeConfig",
            recorded=False,
            service="speech",
            requires=(*DECODE, "python-multipart"),
        ),
    },
    plans={
        "asr": PlanPreset("speech transcribed", "configs:PlanConfig", example="large-v3-turbo"),
        "asr-lora": PlanPreset(
            "Whisper fine-tuned with LoRA",
            "configs:PlanTrainConfig",
            {"bf16": True},
            "large-v3-turbo",
        ),
        "asr-full": PlanPreset(
            "Whisper fine-tuned, all weights",
            "configs:PlanTrainConfig",
            {"method": "full", "bf16": True},
            "small",
        ),
    },
    packages=(
        "faster-whisper",
        "ctranslate2",
        "av",
        "soxr",
        "scipy",
        "torch",
        "transformers",
        "peft",
        "pyannote.metrics",
        "python-multipart",
        "budoux",
        "wcwidth",
        "langcodes",
        "opencc",
        "onnxruntime",
        "xllamacpp",
    ),
)
