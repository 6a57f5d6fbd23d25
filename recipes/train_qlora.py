"""QLoRA from a script: the same flags as `onecard finetune train`, and the same run folder at the
end.

    python recipes/train_qlora.py --model meta-llama/Meta-Llama-3.1-8B-Instruct \\
        --dataset your_instructions.jsonl --load_in_4bit --bf16 --gradient_checkpointing \\
        --lora_r 16 --lora_alpha 32 --lora_dropout 0.05 --per_device_train_batch_size 1 \\
        --gradient_accumulation_steps 16 --max_seq_length 2048 --num_train_epochs 2 \\
        --output_dir ./lora-llama3.1-8b
"""

import sys

from onecard.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["finetune", "train", *sys.argv[1:]]))
