"""asr: speech written down, who spoke when, a careful editor, and Whisper fine-tuned for your
domain."""

from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.memory import plan, smaller
from onecard.tasks.base import Command, Task

HEARS = ("faster_whisper", "soxr", "scipy")
LEARNS = (*HEARS, "torch", "transformers", "peft")
EAR = (
    "model_name",
    "language",
    "task",
    "compute_type",
    "batch_size",
    "beam_size",
    "word_timestamps",
    "hotwords",
    "names",
    "names_file",
    "initial_prompt",
    "vad_threshold",
    "guards",
    "threads",
)
SPEAKERS = ("diarize", "num_speakers", "speaker_threshold", "diarizer")
TRAINING = (
    "dataset",
    "eval_dataset",
    "general_dataset",
    "model_name",
    "language",
    "method",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "freeze_encoder",
    "augment",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "warmup_ratio",
    "gradient_checkpointing",
    "bf16",
    "save_steps",
    "eval_share",
    "eval_items",
    "max_first_pass_wer",
    "seed",
    "output_dir",
    "resume",
    "threads",
    "report_to",
)

TASK = Task(
    name="asr",
    says="speech written down, who spoke when, a careful editor, and Whisper fine-tuned for your "
    "domain",
    settings=Settings,
    plan=plan,
    commands={
        "transcribe": Command(
            "transcribe:transcribe",
            "write down sound files, films and folders of them",
            "audio",
            needs=HEARS,
            fields=(
                "audio",
                *EAR,
                *SPEAKERS,
                "edit",
                "editor_model",
                "formats",
                "output_dir",
                "resume",
                "live",
            ),
        ),
        "enroll": Command(
            "enroll:enroll",
            "know a voice by its name: enroll NAME clip.wav",
            "audio",
            needs=(*HEARS, "torch"),
            records=False,
            fields=("audio", "name"),
        ),
        "train": Command(
            "train:train",
            "fine-tune Whisper on sounds with their texts, scored before and after",
            "dataset",
            needs=LEARNS,
            fields=TRAINING,
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "word and speaker errors, speed and latency on a folder with references",
            "references",
            needs=(*LEARNS[:-1], "pyannote.metrics"),
            fields=("references", *EAR, *SPEAKERS, "edit", "editor_model", "report_to"),
        ),
        "serve": Command(
            "serve:serve",
            "answer OpenAI's /v1/audio/transcriptions",
            records=False,
            needs=(*HEARS, "multipart"),
            fields=("host", "port", "token", *EAR, *SPEAKERS),
        ),
    },
    smaller=smaller,
)
