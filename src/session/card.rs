//! The model card, README.md of a model on the hub: what it was made from, how, what came of it, how to use it.
//!
//! What users and data say is text in it: it cannot end the YAML header, a table's cell or a line, and is no link, tag or picture.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Context, Result};
use crate::eval::report::Score;
use crate::eval::table::parts;
use crate::hub::is_hub_id;

/// The settings that it tells, by their names in `run.json`. None of them is a path of this machine.
const SETTINGS: [&str; 21] = [
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "max_length",
    "completion_only_loss",
    "assistant_only_loss",
    "shuffle",
    "seed",
    "load_best_model_at_end",
    "qat",
    "save_dtype",
];

/// What the hub reads.
#[derive(Serialize)]
struct Header {
    #[serde(skip_serializing_if = "Option::is_none")]
    base_model: Option<String>,
    library_name: &'static str,
    pipeline_tag: &'static str,
    tags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    datasets: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<&'static str>,
}

/// The card of the model `id` of the hub, by the `run.json` of its run. `Null`: there is none.
///
/// # Errors
/// None but a fault of this program.
pub fn card(run: &Value, id: &str) -> Result<String> {
    let base = run["model"].as_str().unwrap_or_default();
    let gemma = last_part(base).to_lowercase().contains("gemma");
    let header = Header {
        base_model: named_on_the_hub(base),
        library_name: if is_adapter(run) { "peft" } else { "transformers" },
        pipeline_tag: "text-generation",
        tags: vec!["engine", "function-calling", "tool-use"],
        datasets: named_on_the_hub(run["settings"]["dataset"].as_str().unwrap_or_default()).into_iter().collect(),
        license: gemma.then_some("gemma"),
    };
    let header = serde_saphyr::to_string(&header).context(|| "internal: the model card's header is no YAML")?;
    let mut text = format!("---\n{}\n---\n\n# {}\n\n", header.trim_end(), escaped(last_part(id)));
    text += &origin(run, base);
    text += &scores(run);
    text += &if is_adapter(run) { use_of_adapter(id, base) } else { use_of(id) };
    text += &settings(run);
    Ok(text)
}

fn origin(run: &Value, base: &str) -> String {
    if run.is_null() {
        return "A model in the format of Hugging Face's transformers.\n\n".into();
    }
    let name = named_on_the_hub(base).map(|id| format!("[{}](https://huggingface.co/{id})", escaped(&id)));
    let name = name.unwrap_or_else(|| escaped(last_part(base)));
    format!(
        "{name}, fine-tuned for tool calling with `engine` {}: {} training rows, {} steps.\n\n",
        escaped(run["engine"].as_str().unwrap_or_default()),
        run["training_rows"].as_u64().unwrap_or_default(),
        run["steps"].as_u64().unwrap_or_default(),
    )
}

/// Before and after training, side by side.
fn scores(run: &Value) -> String {
    let score = |name: &str| serde_json::from_value::<Option<Score>>(run[name].clone()).ok().flatten();
    let (before, after) = (score("score_before"), score("score_after"));
    let Some(of) = after.as_ref().or(before.as_ref()) else { return String::new() };
    let mut text =
        format!("## Score\n\nAnswers that are right, of {}.\n\n| | before | after |\n|---|--:|--:|\n", of.total);
    let cell =
        |score: Option<&Score>, part: usize| score.map_or(String::new(), |score| parts(score)[part].1.to_string());
    for (part, (name, _)) in parts(of).iter().enumerate() {
        text += &format!("| {name} | {} | {} |\n", cell(before.as_ref(), part), cell(after.as_ref(), part));
    }
    text + "\n\"Tool choice\" counts an answer that names the expected tool and no other; the strict lines parse the answer.\n\n"
}

/// Whether the run trained an adapter, and so left no model.
fn is_adapter(run: &Value) -> bool {
    let settings = &run["settings"];
    !settings["lora_r"].is_null() || !settings["adapter"].is_null()
}

fn use_of_adapter(id: &str, base: &str) -> String {
    let model = named_on_the_hub(base).unwrap_or_else(|| "MODEL".to_owned());
    format!(
        "## Use\n\nThis is an adapter (LoRA). With its files in the folder `adapter`:\n\n\
         ```sh\nengine generate --model {model} --adapter adapter --tools tools.json --prompt \"...\"\n```\n\nor, with PEFT,\n\n\
         ```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n\
         model = AutoModelForCausalLM.from_pretrained(\"{model}\")\n\
         model = PeftModel.from_pretrained(model, \"{id}\")\n```\n\n"
    )
}

fn use_of(id: &str) -> String {
    format!(
        "## Use\n\n```sh\nengine generate --model {id} --tools tools.json --prompt \"...\"\n```\n\nor, with transformers,\n\n\
         ```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\"{id}\")\n\
         model = AutoModelForCausalLM.from_pretrained(\"{id}\")\n\
         messages = [{{\"role\": \"user\", \"content\": \"...\"}}]\n\
         inputs = tokenizer.apply_chat_template(\n    \
         messages, tools=tools, add_generation_prompt=True, return_dict=True, return_tensors=\"pt\"\n)\n\
         output = model.generate(**inputs, max_new_tokens=128)\n\
         print(tokenizer.decode(output[0][inputs[\"input_ids\"].shape[1]:]))\n```\n\n"
    )
}

fn settings(run: &Value) -> String {
    let told = SETTINGS.iter().filter_map(|name| Some((name, run["settings"].get(name)?)));
    let lines: Vec<String> = told
        .filter(|(_, value)| !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty()))
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("| `{name}` | {} |\n", escaped(&value))
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("## Settings\n\n| | |\n|---|---|\n{}\n`run.json` has all of them.\n", lines.concat())
}

/// The id that `text` is, unless it is a path of this machine.
fn named_on_the_hub(text: &str) -> Option<String> {
    (is_hub_id(text) && !Path::new(text).exists() && !text.ends_with(".gguf")).then(|| text.to_owned())
}

fn last_part(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// `text` as Markdown that shows it: a backslash before every sign that could mean something, a space for what is no letter on
/// a screen.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '.' | '-' if !out.is_empty() => out.push(c),
            c if c.is_ascii_punctuation() => out.extend(['\\', c]),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' => out.push(' '),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
