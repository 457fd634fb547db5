//! What the fields of TRL's `SFTConfig` (1.16, with transformers' `TrainingArguments` below it) are called here: the README's table, and
//! what a user is told who types one that is no flag.

use Counterpart::{Flag, None as Nothing, Same};

/// What a field is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counterpart {
    /// The flag of the same name.
    Same,
    /// Another flag, as it is typed.
    Flag(&'static str),
    /// None, and why.
    None(&'static str),
}

const ONE_PROCESS: &str = "one process, one device";
const NO_LOADER: &str = "rows are tokenized once, before the first step: there is no loader";
const NO_LIGER: &str = "loss and layers are fused here anyway";
const NO_TORCH: &str = "no torch here";
const TRACKIO: &str = "no trackio; metrics.jsonl and TensorBoard's event file are written";
const ONE_GPU: &str = "no training on several GPUs yet";
const HALF: &str = "f16 is not computed in; bf16 and f32 are";
const LAYERS: &str = "nothing to set: the inputs of each layer are kept";

/// Every field, in the order of the docs of TRL and transformers.
pub const SFT_CONFIG: [(&str, Counterpart); 135] = [
    ("output_dir", Same),
    ("per_device_train_batch_size", Same),
    ("num_train_epochs", Same),
    ("max_steps", Same),
    ("learning_rate", Same),
    ("lr_scheduler_type", Same),
    ("lr_scheduler_kwargs", Same),
    ("warmup_steps", Same),
    ("optim", Nothing("AdamW, fused; TRL's default adamw_torch_fused is the same update")),
    ("optim_args", Nothing("AdamW has no other arguments than those above")),
    ("weight_decay", Same),
    ("adam_beta1", Same),
    ("adam_beta2", Same),
    ("adam_epsilon", Same),
    ("optim_target_modules", Nothing("for optimizers that are not here")),
    ("gradient_accumulation_steps", Same),
    ("average_tokens_across_devices", Nothing(ONE_PROCESS)),
    ("max_grad_norm", Same),
    ("label_smoothing_factor", Same),
    ("bf16", Flag("--dtype bf16")),
    ("fp16", Nothing(HALF)),
    ("bf16_full_eval", Flag("--dtype bf16")),
    ("fp16_full_eval", Nothing(HALF)),
    ("tf32", Nothing("f32 products are f32; bf16 is the fast format")),
    ("activation_checkpointing", Flag("--gradient-checkpointing")),
    ("activation_checkpointing_kwargs", Nothing(LAYERS)),
    ("gradient_checkpointing", Same),
    ("gradient_checkpointing_kwargs", Nothing(LAYERS)),
    ("torch_compile", Nothing(NO_TORCH)),
    ("torch_compile_backend", Nothing(NO_TORCH)),
    ("torch_compile_mode", Nothing(NO_TORCH)),
    ("use_liger_kernel", Nothing(NO_LIGER)),
    ("liger_kernel_config", Nothing(NO_LIGER)),
    ("use_cache", Nothing("answers are generated with a cache, training has none")),
    ("neftune_noise_alpha", Same),
    ("torch_empty_cache_steps", Nothing(NO_TORCH)),
    ("auto_find_batch_size", Nothing("a batch that does not fit is an error that says what to change")),
    ("logging_strategy", Flag("--logging-steps N")),
    ("logging_steps", Same),
    ("logging_first_step", Same),
    ("log_on_each_node", Nothing(ONE_PROCESS)),
    ("logging_nan_inf_filter", Nothing("a loss that is not finite ends the run, and names the rows")),
    ("include_num_input_tokens_seen", Nothing("num_tokens is in metrics.jsonl always")),
    ("log_level", Nothing("there is one level: what a user should know")),
    ("log_level_replica", Nothing(ONE_PROCESS)),
    ("disable_tqdm", Nothing("the bar is there only where stderr is a terminal")),
    ("report_to", Same),
    ("run_name", Nothing("the output folder is the run's name")),
    ("project", Nothing(TRACKIO)),
    ("trackio_space_id", Nothing(TRACKIO)),
    ("trackio_bucket_id", Nothing(TRACKIO)),
    ("trackio_static_space_id", Nothing(TRACKIO)),
    ("eval_strategy", Same),
    ("eval_steps", Same),
    ("eval_delay", Same),
    (
        "per_device_eval_batch_size",
        Nothing("the loss is over all scored tokens, whatever the batch; it has up to 8,192 tokens"),
    ),
    ("prediction_loss_only", Nothing("an evaluation computes loss, entropy and token accuracy")),
    ("eval_on_start", Same),
    ("eval_do_concat_batches", Nothing("an evaluation keeps sums, not predictions")),
    ("eval_use_gather_object", Nothing(ONE_PROCESS)),
    ("eval_accumulation_steps", Nothing("an evaluation keeps sums, not predictions")),
    ("include_for_metrics", Nothing("an evaluation keeps sums, not predictions")),
    ("batch_eval_metrics", Nothing("an evaluation keeps sums, not predictions")),
    ("save_only_model", Nothing("a checkpoint is there to go on from; the model in it is a folder of its own")),
    ("save_strategy", Same),
    ("save_steps", Same),
    ("save_on_each_node", Nothing(ONE_PROCESS)),
    ("save_total_limit", Same),
    ("enable_jit_checkpoint", Nothing("SIGTERM and Ctrl-C save a checkpoint always")),
    ("push_to_hub", Same),
    (
        "hub_token",
        Nothing(
            "the environment's HF_TOKEN, or the token file of `hf auth login`: a flag would be seen by all on the machine",
        ),
    ),
    ("hub_private_repo", Flag("--hub-private")),
    ("hub_model_id", Same),
    ("hub_strategy", Nothing("the finished model is pushed, once")),
    ("hub_always_push", Nothing("the finished model is pushed, once")),
    ("hub_revision", Nothing("it is pushed to main")),
    ("load_best_model_at_end", Same),
    ("metric_for_best_model", Same),
    ("greater_is_better", Nothing("follows from --metric-for-best-model")),
    ("ignore_data_skip", Nothing("a run that goes on jumps to its place in the data at once")),
    ("restore_callback_states_from_checkpoint", Nothing("a run that goes on is equal to the bit")),
    (
        "full_determinism",
        Nothing(
            "a run is equal to the bit always, whatever the number of threads; on a GPU, with the same choices of algorithms (CUDA, below)",
        ),
    ),
    ("seed", Same),
    ("data_seed", Same),
    ("use_cpu", Flag("--device cpu")),
    ("accelerator_config", Nothing(ONE_PROCESS)),
    ("parallelism_config", Nothing(ONE_GPU)),
    ("dataloader_drop_last", Nothing("the last batch of an epoch is trained on as it is")),
    ("dataloader_num_workers", Nothing(NO_LOADER)),
    ("dataloader_pin_memory", Nothing(NO_LOADER)),
    ("dataloader_persistent_workers", Nothing(NO_LOADER)),
    ("dataloader_prefetch_factor", Nothing(NO_LOADER)),
    ("dataloader_multiprocessing_context", Nothing(NO_LOADER)),
    ("dataloader_in_order", Nothing(NO_LOADER)),
    ("remove_unused_columns", Nothing("fields that a row's form does not know are left alone")),
    ("label_names", Nothing("the scored tokens are the labels")),
    ("train_sampling_strategy", Flag("--shuffle BOOL, --group-by-length BOOL")),
    ("length_column_name", Nothing("lengths are counted")),
    ("ddp_find_unused_parameters", Nothing(ONE_GPU)),
    ("ddp_bucket_cap_mb", Nothing(ONE_GPU)),
    ("ddp_broadcast_buffers", Nothing(ONE_GPU)),
    ("ddp_static_graph", Nothing(ONE_GPU)),
    ("ddp_backend", Nothing(ONE_GPU)),
    ("ddp_timeout", Nothing(ONE_GPU)),
    ("fsdp", Nothing("the model fits one GPU many times over")),
    ("fsdp_config", Nothing("the model fits one GPU many times over")),
    ("deepspeed", Nothing("the model fits one GPU many times over")),
    ("debug", Nothing("ENGINE_DEBUG_SYNC=1 names the op that fails on a GPU")),
    ("skip_memory_metrics", Nothing("memory by purpose is told at the end of a run")),
    ("do_train", Nothing("`engine train` trains")),
    ("do_eval", Nothing("`engine eval` evaluates")),
    ("do_predict", Nothing("`engine eval --report FILE` writes every answer")),
    ("resume_from_checkpoint", Same),
    ("local_rank", Nothing(ONE_PROCESS)),
    ("model_init_kwargs", Flag("--dtype DTYPE")),
    ("trust_remote_code", Nothing("no code of a checkpoint is run but its chat template, in a sandbox")),
    ("router_aux_loss_coef", Nothing("Gemma 3 270M has no experts")),
    ("chat_template_path", Same),
    ("dataset_text_field", Flag("--column text=NAME")),
    ("dataset_kwargs", Nothing("rows are prepared by their form")),
    ("dataset_num_proc", Nothing("every core tokenizes")),
    ("eos_token", Same),
    ("max_length", Same),
    ("truncation_mode", Flag("--overlong truncate")),
    ("shuffle_dataset", Flag("--shuffle BOOL")),
    ("packing", Same),
    ("packing_strategy", Nothing("bfd, TRL's default: whole rows, best fit decreasing; rows do not see each other")),
    ("padding_free", Nothing("batches have no padding on the CPU, and little on a GPU")),
    ("pad_to_multiple_of", Nothing("batches have no padding on the CPU, and little on a GPU")),
    (
        "eval_packing",
        Nothing("an evaluation's batches have up to 8,192 tokens always; its loss is the same in any batches"),
    ),
    ("completion_only_loss", Same),
    ("assistant_only_loss", Same),
    ("loss_type", Nothing("the mean negative log-likelihood, TRL's default `nll`")),
    ("activation_offloading", Nothing("activations stay on the device; `--gradient-checkpointing` has few of them")),
    ("pad_token", Nothing("the checkpoint's own; nothing is padded with it that is scored")),
];

/// Other flags that users of TRL's command line and of similar programs type.
const OTHERS: [(&str, Counterpart); 12] = [
    ("attn_implementation", Nothing("one attention, fused, over the prefix tree")),
    ("config_name", Nothing("the model's own config.json")),
    ("dataset_config", Nothing("name a file or a folder of the dataset")),
    ("dataset_test_split", Flag("--eval-dataset DATASET")),
    ("dataset_train_split", Flag("--dataset DATASET")),
    ("evaluation_strategy", Flag("--eval-strategy WHEN")),
    ("load_in_4bit", Nothing("weights are f32 or bf16: a model of 270M parameters fits as it is")),
    ("load_in_8bit", Nothing("weights are f32 or bf16: a model of 270M parameters fits as it is")),
    ("max_seq_length", Flag("--max-length N")),
    ("test_split", Flag("--test-size X")),
    ("torch_dtype", Flag("--dtype DTYPE")),
    ("use_peft", Flag("--lora-r R")),
];

/// What a user should be told who typed the flag `--name`, which is none here.
pub fn advice(name: &str) -> Option<String> {
    let field = name.trim_start_matches('-').replace('-', "_");
    let (_, counterpart) = SFT_CONFIG.iter().chain(&OTHERS).find(|(known, _)| *known == field)?;
    match counterpart {
        Same => None,
        Flag(flag) => Some(format!("`{flag}` is what it is here")),
        Nothing(reason) => Some(format!("there is no counterpart here: {reason}")),
    }
}

/// The table as Markdown.
pub fn markdown() -> String {
    let mut table = "| SFTConfig | engine |\n|---|---|\n".to_owned();
    for (field, counterpart) in SFT_CONFIG {
        table += &match counterpart {
            Same => format!("| {field} | `--{}` |\n", field.replace('_', "-")),
            Flag(flag) => format!("| {field} | `{flag}` |\n"),
            Nothing(reason) => format!("| {field} | {reason} |\n"),
        };
    }
    table
}
