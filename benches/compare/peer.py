#!/usr/bin/env python3
"""The peer of `benches/compare/run` and of the GPU kit: steps by TRL's SFTTrainer, or greedy answers by transformers, timed.

    python peer.py step  MODEL ROWS TOOLS [--dtype float32|bfloat16] [--steps 4] [--batch 4] [--completion-only]
    python peer.py score MODEL ROWS TOOLS [--dtype float32|bfloat16] [--max-new-tokens 128]
        [--device cpu|cuda] [--attention sdpa|eager] [--liger] [--leave-out 1] [--label-smoothing-factor 0] [--lora-r R]

ROWS are the tutorial's three fields, taken in file order; TOOLS is a JSON list of declarations. Needs torch, transformers, trl,
datasets, accelerate, and peft for LoRA of all linear modules. Prints one JSON object: seconds (of `step` the median, the first ones left out; of `score` all answers),
losses, peak memory (of the process, or of the GPU).
"""
import argparse
import json
import resource
import statistics
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

SYSTEM = "You are a model that can do function calling with the following functions"

parser = argparse.ArgumentParser()
parser.add_argument("task", choices=["step", "score"])
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("tools")
parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--learning-rate", type=float, default=5e-5)
parser.add_argument("--completion-only", action="store_true")
parser.add_argument("--max-new-tokens", type=int, default=128)
parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
parser.add_argument("--liger", action="store_true")
parser.add_argument("--leave-out", type=int, default=1, help="steps at the beginning that do not count")
parser.add_argument("--label-smoothing-factor", type=float, default=0.0)
parser.add_argument("--lora-r", type=int)
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
# sdpa is its fastest attention on a CPU.
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation=args.attention)
model.to(args.device)
tools = json.load(open(args.tools))


def conversation(line):
    row = json.loads(line)
    call = {"name": row["tool_name"], "arguments": json.loads(row["tool_arguments"])}
    return [
        {"role": "developer", "content": SYSTEM},
        {"role": "user", "content": row["user_content"]},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
    ]


def ids(messages, prompt):
    text = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def example(messages):
    whole = ids(messages, False)
    masked = len(ids(messages[:-1], True)) if args.completion_only else 0
    return {"input_ids": whole, "labels": [-100] * masked + whole[masked:]}


def synchronize():
    if args.device == "cuda":
        torch.cuda.synchronize()


class StepClock(TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        synchronize()
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        synchronize()
        self.seconds.append(time.perf_counter() - self.started)


class InFileOrder(SFTTrainer):
    def _get_train_sampler(self, *_, **__):
        return SequentialSampler(self.train_dataset)


def lora():
    if args.lora_r is None:
        return None
    from peft import LoraConfig
    return LoraConfig(r=args.lora_r, lora_alpha=args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")


def step(chats):
    clock = StepClock()
    trainer = InFileOrder(
        model=model,
        processing_class=tokenizer,
        callbacks=[clock],
        train_dataset=Dataset.from_list([example(chat) for chat in chats]),
        peft_config=lora(),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=args.device == "cpu",
            use_liger_kernel=args.liger,
            label_smoothing_factor=args.label_smoothing_factor,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        ),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": statistics.median(clock.seconds[args.leave_out:]), "losses": losses}


def score(chats):
    started, tokens = time.perf_counter(), 0
    model.eval()
    for chat in chats:
        prompt = torch.tensor([ids(chat[:-1], True)], device=args.device)
        with torch.no_grad():
            answer = model.generate(prompt, do_sample=False, max_new_tokens=args.max_new_tokens, pad_token_id=0)
        tokens += answer.shape[1] - prompt.shape[1]
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


chats = [conversation(line) for line in open(args.rows)]
result = {"step": step, "score": score}[args.task](chats)
on_gpu = args.device == "cuda"
peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
versions = f"trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
print(json.dumps({**result, "peak_memory_bytes": peak, "versions": versions}))
