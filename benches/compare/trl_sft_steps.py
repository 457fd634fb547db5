#!/usr/bin/env python3
"""The same training job by TRL's SFTTrainer on the CPU, to compare losses, seconds a step and memory with `engine train`.

    pip install torch transformers trl datasets accelerate
    python benches/compare/trl_sft_steps.py MODEL_DIR train.jsonl --max-steps 6
    engine train --model MODEL_DIR --dataset train.jsonl --output-dir out --max-steps 6 --shuffle false \
        --per-device-train-batch-size 4 --learning-rate 5e-5 --lr-scheduler-type constant --score none

The rows are {"messages", "tools"}, taken in file order; everything is computed in f32, as `engine` does. Prints one JSON
object a step (loss, grad_norm, seconds), then the median of the seconds and the peak memory.
"""
import argparse
import json
import resource
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--max-steps", type=int, default=6)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--learning-rate", type=float, default=5e-5)
parser.add_argument("--attention", default="sdpa", choices=["eager", "sdpa"])
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation=args.attention)


def example(line):
    row = json.loads(line)
    text = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "labels": ids}


class StepClock(TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.started)


class InFileOrder(SFTTrainer):
    def _get_train_sampler(self, *_, **__):
        return SequentialSampler(self.train_dataset)


clock = StepClock()
trainer = InFileOrder(
    model=model,
    processing_class=tokenizer,
    callbacks=[clock],
    train_dataset=Dataset.from_list([example(line) for line in open(args.rows)]),
    args=SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    ),
)
trainer.train()
steps = [entry for entry in trainer.state.log_history if "loss" in entry]
for entry, seconds in zip(steps, clock.seconds):
    print(json.dumps({"step": entry["step"], "loss": entry["loss"], "grad_norm": entry["grad_norm"], "seconds": seconds}))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"median_step_seconds": statistics.median(clock.seconds), "peak_memory_bytes": peak}))
