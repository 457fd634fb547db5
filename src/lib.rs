//! `engine` fine-tunes FunctionGemma (Gemma 3 270M) for tool calling and scores the result.
//!
//! # Map, in reading order
//!
//! Data flows from top to bottom: `engine train` is
//! rows -> conversations -> chat template -> tokens -> token tree -> forward on the tape -> loss -> backward -> clip ->
//! AdamW -> metrics -> model folder -> score.
//!
//! The rows are floors: a module uses only modules of rows below its own (`tests/tidy` holds that, and that the files of a
//! folder import one another in no circle).
//!
//! | floor | what it holds |
//! |---|---|
//! | [`cli`] | the command line, declared once ([`cli::args`]), and a file per command; printing, progress bars |
//! | [`session`] | what a job is, without a terminal: checkpoint, run, state, saves, observers, score |
//! | [`train`], [`eval`], [`generate`](mod@generate) | one optimizer step ([`train::step`]), settings, order of the rows, schedule, evaluation loss, metrics, plot; verdicts, report, tables, what rounded weights cost; sequences that come, grow and go over one KV cache ([`generate::Decoder`]), and the choice of tokens |
//! | [`io`] | models in and out: safetensors, GGUF, PEFT's adapters, the hub's models, and the output folder that is whole or not there |
//! | [`model`] | [`model::gemma3`]: the configuration, the parameter table ([`model::gemma3::table`]), LoRA's adapter, and the one forward |
//! | [`chat`] | chat templates, control tokens, the tokenizer, FunctionGemma's format and the parser of its calls |
//! | [`data`] | datasets, the forms that rows come in ([`data::forms`]), conversations, tools, and what is wrong with them ([`data::check`]) |
//! | [`hub`] | one client for the models and datasets of the Hugging Face hub, and for what is pushed there |
//! | [`ops`] | a file per op: formula, shapes, public function, backward; the same on every device |
//! | [`autograd`] | the tape (a list of named closures, run backwards), flat parameters and their gradients |
//! | [`batch`] | [`batch::Example`], the token tree, the mask, what a batch sends to the device |
//! | [`emulated`], [`cuda`] | the devices beside the CPU |
//! | [`host`] | the CPU: the table of kernels in Rust, a file per op; matrix products, the search for the likeliest token, SIMD |
//! | [`device`] | what a device is: memory, tensors, the driver's trait, the table of kernels and how it is called |
//! | [`foreign`] | code of other crates that is given what strangers wrote: its panics become errors |
//! | [`cache`] | the user's folder for what can be had again |
//! | [`error`] | the one error type: message, cause, hint, kind |
//!
//! # Decisions
//!
//! **One forward.** Training, evaluation loss and generation run [`model::gemma3::Gemma3::forward`] and the same ops. A
//! tape that records nothing ([`autograd::Tape::inference`]) is all the difference.
//!
//! **A batch is a token tree.** In tool calling most of every row is the same system text and tool declarations. A batch
//! is the prefix tree of its rows in depth-first order, each distinct prefix once; under causal attention that is exact.
//! The whole mask is `j <= i && i < end[j] && position[i] - position[j] < window`. There is no padding and no other batch
//! layout: rows that share nothing are the special case. For generation each prompt is followed by free slots in the same
//! layout, so that tokens decoded later fall under the same mask, and the KV cache is just the tree's slots.
//!
//! **One table, three implementations, one path.** `kernels/engine.h` declares a launcher for everything that is computed but
//! large matrix products. The host implements the table in Rust ([`host`]), nvcc and the host's C++ compiler compile the other two from
//! `kernels/*.cu`: [`cuda`], and the emulated device, which runs the kernels with races, bounds and barriers checked. An
//! op makes its outputs and calls the launcher of its name; a [`device::driver::Driver`] is memory, a stream, matrix products
//! and, where it can, graphs. Nothing above asks which device it has: what suits one (tiles of the mask, bytes of logits
//! at once, whether batches are padded for graphs) is a question that the driver answers. So a machine without a
//! GPU tests what a GPU runs, and one list of cases per op serves every device, every type
//! and the benches (`tests/ops/lists`). bf16 passes when its error is at most twice that of plain rounding
//! ([`autograd::Rounding`] gives that for whole models).
//!
//! **The driver has a stand-in.** [`cuda`] is executed without a GPU, too: `stand-in/` is a `libcuda.so` and a `libcublasLt.so` for tests, which
//! do late what is queued and call a mistake by the driver's name, also one that a driver would not notice. [`cuda::open_with`] takes
//! launchers, so that the emulator's kernels run on its streams; nothing else of the shipped code knows of it. Its products are the
//! host's, so `tests/driver` compares with the emulated device to the bit. What it cannot show is what only NVIDIA's
//! code decides: its algorithms, its speed, and where it differs from its own documentation.
//!
//! **The emulated device stands above the host.** Its matrix products are the host's. `device` knows neither: it is
//! what a device must be, and tests bring drivers of their own.
//!
//! **A step does not wait for the host.** What a batch sends is packed into one buffer ([`batch::inputs`]); losses, the
//! gradient's norm and the factor of clipping stay on the device, and AdamW leaves the weights alone when that factor is NaN.
//! Trees are padded to a few sizes with tokens that nobody sees and nobody scores, which is exact (they add zeros), so that
//! the second step of a size can be captured into a graph and later ones replay it ([`device::graphs`]). What a graph uses comes from an
//! arena of its own ([`device::GraphMemory`]), which all graphs share, for they run one after the other; it is given back with the last who
//! may launch one. The emulator captures and replays too: that graphs give the losses of single launches to the bit is a test.
//! What a replay reads must be checked or sized when the batch is made, not when the graph is: token ids, and rotation
//! tables as deep as the batch has rows. While the device is busy with a step, the host makes the next one's batches ([`train::step::PreparedWindow`]):
//! nothing of the weights is in them, and nothing of them is in a run's state.
//!
//! **A decoded token is one launch.** What continues the sequences of a [`generate::Decoder`] is a graph in the same way: one upload (tokens, their
//! places, the mask, the numbers to draw with), one launch, one download of the tokens. Rows of padding have slots of their own behind those that sequences can
//! hold, and see themselves alone. The tiles of the mask have room for all slots, the rotation tables know all positions that the sequences
//! can come to. The keys of a row are shared among blocks, and the last of them to finish adds up what all have found, in the order of
//! the shares (`kernels/arrive.cuh`).
//!
//! **f32 masters, compute in bf16.** Weights, moments and gradients of parameters are f32; where ops compute in bf16, they read a
//! bf16 copy that AdamW writes in its own pass. Products accumulate gradients in f32. The CPU does both, f32 by default.
//! Beside the copy only the lower halves of the masters are kept: how it was rounded follows from the update's number, so both give
//! the f32 again to the bit, and a weight has 16 bytes with its gradient and moments, not 18 ([`autograd`], kernels/halves.cuh).
//! Whoever wants the masters whole between two updates, such as a checkpoint, has them put into the room of the gradients.
//! The copy is rounded up or down at random, by numbers that follow from index and step: an update of a small learning
//! rate is less than half the distance of two numbers of bf16, and rounded to nearest it is lost until many have added up. On
//! the tutorial's job the second loss was 31 % off that of f32 then, and is 1 % off now. A run that has ended rounds to
//! nearest, as the model is saved.
//!
//! **What a file rounds, training rounds.** With `--qat` the copy that ops compute in is what a GGUF would give back of the masters
//! ([`autograd::RoundBlocks`]), written in a launch after each AdamW, also where ops compute in f32. Which tensor has which format is asked of
//! the export's table, and a test holds the launcher to its bytes. Nothing is rounded at random then: the number that matters is the file's.
//!
//! **The loss never holds the logits.** Head and cross-entropy are one op over chunks of rows; value and gradient come
//! from one pass, and only rows that have a target reach the head ([`ops::cross_entropy`]).
//!
//! **What a batch costs is its tree.** A budget of tokens (`--max-tokens-per-batch`) counts the rows of the tree, for activations have as many;
//! [`batch::growth`] counts them while a batch is being filled. How many updates an epoch has then depends on its order, so a run counts
//! them epoch by epoch before it begins: schedule and resume need the number. Packs, which are as long in every epoch, are made once, of plain
//! tokens, for that is what TRL's `--max-length` means ([`train::order`], [`train::packing`], [`train::prefixes`]).
//!
//! **Tokens are kept under the name of all that they follow from.** So nothing has to be declared stale: other rows, another template or another
//! program have another name ([`session::token_cache`]). A file is believed when its own hash is right.
//!
//! **The first gradient of a step is written.** Products write the gradient of a matrix the first time in a step and add from then on
//! ([`autograd::Gradients`]), so that nobody zeroes a gigabyte to add to it. The gradients of vectors, the norms' weights, are left in parts by the kernels
//! that pass over the rows, and added up by one launch at the end of a backward: in parts of as many rows on every device, so that sums are the same.
//! On a GPU the products of a small batch wait for one another: one launch at the end of a backward writes the gradients of all layers' weights, and adds
//! up their squares as it has them in hand. Whoever writes a gradient leaves such sums or takes back that they are complete; where they are, the norm is
//! made of them and the gradient is not read for it ([`autograd::Gradients::sums_of_squares`]). Large batches are a library's to multiply.
//!
//! **A layer can be computed twice.** With gradient checkpointing the tape keeps of a layer its inputs, what others hold of its results, and the
//! layer itself, which owns all that it reads ([`autograd::Tape::checkpointed`]), and runs it again when the backward comes to it. The second run is
//! recorded among the activations of the first, so that every sum has the same terms in the same order: losses, gradients and weights are equal to the
//! bit. A closure keeps the value of what it reads, of the rest only where the gradient arrives ([`autograd::Arrival`]): the input of a frozen product
//! is kept by nobody.
//! Of a batch of many rows that is so unasked, but for what is expensive: products and attention leave their results to the second run
//! ([`autograd::Recompute::Selective`]), which norms and rotates again. A row has 18 KB a layer then, not 24.
//!
//! **The stream is normed where it is written.** The norm that closes a block, the residual sum and the norm that opens the next block are
//! one op each way ([`ops::residual`]): a launch for three, and the sum is not read again.
//!
//! **Small products go on with what follows.** With few rows a product is bound by its weight's bytes and by its launch, whoever writes it. Where
//! a device says so ([`device::driver::Driver::joins_products`]), the gated unit is the end of the product before it and its backward that of
//! the product after it ([`ops::mlp`]); what decodes is multiplied by kernels that read a weight once, from memory to registers ([`ops::linear`]); the
//! norms between two blocks are left to the product that opens the next one, of which each block of threads norms all rows while its part of the
//! weight is on its way ([`ops::stream::Stream`]); and the attention of a decoded token norms and rotates what it needs itself, and puts the
//! token's key into the cache, which nobody else sees ([`ops::decode`]). Other batches and the host have the ops one by one: a table's launcher that
//! joins some is tested against them.
//!
//! **So do the gated unit's products of many rows.** They are bound by arithmetic, and the passes over what lies between them and the unit take as long as
//! half of it: own products, in large tiles, end with the unit and with its backward, which gives the unit again so that nobody keeps it.
//!
//! **A kernel takes its place while the one before it ends.** Launches are programmatic dependent ones where the code is made for that, on an H100
//! ([`cuda::programmatic_launch`]): blocks come as soon as there is room for them, and each thread waits for the end of earlier kernels before it
//! touches memory; a product of few rows asks for its weights before that. A wait that is missing would be a race between two kernels, which no test of values
//! shows for sure, so the emulator has a fault for every access before it.
//!
//! **Parts are added up by who reads them.** A batch of few blocks splits the heads of a group over blocks, which leave dk and dv in parts; the
//! backward of rope adds them up as it loads them ([`ops::attention::KeyParts`]), in order.
//!
//! **A step has a bill.** `cargo bench --bench bill` counts every kernel and product of a step with its bytes, FLOPs and blocks, on a device that runs nothing,
//! and what the roof of an H100 leaves them. Bytes come from the tensors whose addresses an op asks for
//! ([`device::driver::Driver::addressed`]); a test holds them against what the emulator counts, and the totals are a test of their own.
//!
//! **What a run will take is counted, not estimated.** [`device::counted`] is a device on which launches do nothing and memory is only
//! counted: a step of the run's own code on it tells what the steps will hold ([`session::Footprint`]). [`device::profiled`] is one that
//! keeps account of time, for `--profile`.
//!
//! **The CPU's products are one loop over what a chip multiplies with.** A blocked product packs panels and asks for tiles; a vector unit, AMX
//! or `bfmmla` says how words lie in a panel and computes a tile ([`host::products`]). Which one does is measured, of those that computed one
//! rightly. Vector units give the same bits as plain Rust; AMX and `bfmmla` add several products at once, and give others.
//!
//! **The likeliest token is searched for.** Greedy decoding asks of the head only which logit is the largest. A device may have a search for that
//! ([`device::driver::Driver::search`], [`ops::greedy`]); where it has none, or finds nothing, all logits are computed. The CPU multiplies
//! bytes, knows what they can be wrong by at most, and computes the few logits that may be the largest as the head computes
//! them: the same tokens to the bit, in half the head's time and less ([`host::search`]). Weights are then kept in bytes beside (168 MB of FunctionGemma's head).
//!
//! **Products by timing.** cuBLASLt proposes algorithms by what it expects of them. The first products of a device that matter are timed with the first few,
//! before anything is captured; choices are kept on disk for a GPU, a driver and a library ([`cuda::choices`]). They are part of a
//! checkpoint ([`device::driver::Driver::choices`]), for the order of sums follows from them. The margin by which an algorithm must win
//! and the number of products that are timed are fixed, so that what a run chooses follows from the file and its products alone.
//!
//! **Flat parameters.** Weights, gradients and the two moments are one run of numbers each. Clipping and AdamW are one
//! pass, q, k, v and gate, up are fused matrices without a copy.
//!
//! **An adapter is a second flat run.** With LoRA the model's parameters are frozen: kept once, in the type that ops compute in, without
//! gradients and moments. What is trained is an [`Adapter`](model::gemma3::adapter::Adapter), parameters of its own; whatever updates,
//! saves or restores a run asks for [`Gemma3::trained`](model::gemma3::Gemma3::trained). Modules of a fused product share
//! one low-rank product: their A lie on top of each other, their B are spread over a matrix of blocks ([`ops::lora`]). Whoever does not
//! train adds the adapter to the weights as they are read. Dropout is a hash of an index, a product and a key that is sent with the batch, made
//! of seed, update and micro-batch: nothing is saved for the backward, and a replayed graph draws anew ([`ops::dropout`]).
//!
//! **Storage is checked, not trusted.** A tensor is written only while nobody else holds it
//! ([`device::Tensor::as_mut`]), so that what a closure captured cannot change under it; freed storage goes to a pool, so
//! that steps after the first allocate nothing.
//!
//! **f64 to check it.** The host is generic over the element type T and the type A of its sums: f32, bf16 with f32 sums, and
//! f64, which is held against central differences and which the others are compared with. The kernels refuse f64. Sums that cross
//! blocks run in a fixed order that does not depend on the number of threads.
//!
//! **A run is a value.** [`session::Run`] is stepped by whoever holds it; between two steps it may be stopped, looked at, or
//! copied out as a [`session::State`] and put back, and ends equal to the bit either way. So all that a step reads is in the
//! state, the settings or the data, and the order of an epoch follows from seed and epoch. Only [`cli`] knows a
//! terminal: what a user should be told comes back as a value, an observer is told, or an error says.
//!
//! **Saved is: renamed.** What is written to an output folder is made beside its place as an [`io::new_folder`], every file hashed while it
//! is written, large ones past the system's cache ([`io::new_file`]), and synced, a manifest last; one rename puts it there. A model changes places with the whole output folder (`RENAME_EXCHANGE`), so
//! that there is no moment without a model; what is not of a model moves along afterwards, and whoever claims the folder next finishes that. The
//! folder belongs to the run that holds a lock on its `engine.json`, which ends with the process. Metrics of a run that has not ended are never
//! beside the model of another. `scripts/kill-test` and `scripts/fault-test` hold all this.
//!
//! **A checkpoint is a model folder.** [`session::Saves`] puts the state beside the model: moments, master weights, where the run is, the
//! records so far, and hashes of all that its result follows from ([`session::Identity`]). A run is saved synchronously: a second copy of its state would be its
//! memory again.
//!
//! **A slot belongs to whoever holds it.** Generation is a token tree that changes: a sequence that ends gives its slots
//! back, a prompt that comes takes free ones below the longest beginning of it that is there already. The mask decides who
//! may have them, so there is no second kind of cache ([`generate::slots`]).
//!
//! **Control tokens come from the template alone.** A tokenizer cannot tell `<end_of_turn>` that the template wrote from one
//! that a user typed. Marking the data would have to foresee all that a template does to strings (trim, join, lower-case), so
//! the template's own literals are marked: what has no mark came from the data and is encoded as text
//! ([`chat::control`]).
//!
//! **A checkpoint is a file from a stranger.** Its template runs with fuel, on a thread of its own with a deep stack, and what
//! it keeps in a namespace is a copy, so that no value holds itself; its tokenizer is checked for what multiplies text, and
//! panics of foreign code become errors ([`chat::template`], [`chat::tokenizer_file`]). The limits lie far above what any known
//! model needs. What data and models say is escaped before it is printed ([`error::printable`]).
//!
//! **An export and its price come from one table.** [`io::gguf_type`] says which tensor a GGUF stores in which format, and encodes it; what
//! `engine eval --as` rounds is encoded and decoded by the same code, so that the score is that of the file. The header is read back by
//! the reader of `engine import`, and the blocks are held against the gguf package's.
//!
//! **The hub's cache is hf-hub's, the requests are ours.** hf-hub 0.5 knows the layout of the cache and the addresses of
//! repositories; that we use. Its transport cannot be made safe from outside: its request for a file's metadata repeats the
//! token to whatever host the hub redirects to, its requests have no time limit, etag and commit go into paths as they
//! come, and what arrives is not checked. So requests are sent by ureq, which hf-hub is built on, with redirections followed
//! here: the token goes to the endpoint's scheme, host and port alone, only the endpoint is believed about a file, what it
//! says becomes a part of a path only as a plain name, and a file counts as cached when its size and its SHA-256 (git's SHA-1 for
//! small files) are right. That is looked at again whenever a cached file is used (an estimated quarter of a second for the 540 MB of
//! FunctionGemma where the chip has instructions for it), and a bad one is fetched again. Files come from the one commit
//! that the listing named, and the cache's `refs/main` is written when all are there.
//!
//! **Weights are read, not mapped.** In a map, a file that another program cuts short or a disk that fails is SIGBUS, and no
//! message; a read is an error that names the tensor, and costs no more: it is decoded out of a window that stays in the
//! caches.
//!
//! **What is large is asked for first.** Sizes that a file or a flag names are compared with what the file holds (a config with
//! the headers of the weights) and with what the machine, its container and `ulimit -v` leave ([`device::room`]), before memory is
//! taken. What is small cannot be asked for everywhere: there the binary's allocator ([`device::allocator`]) ends the process
//! with a message where Rust would abort. The parquet crate believes what a file claims, so that [`data::parquet`] looks the
//! claims over before it does; panics of other crates become errors ([`foreign`]).
//!
//! **The config file is flags.** The keys of a TOML or YAML file are turned into arguments in front of the command line's, so there
//! is one declaration of every option and a flag wins over the file by being later. What TRL's users type is turned into flags in
//! the same place ([`cli::spelling`]); what is none has its reason in [`cli::sft_config`], which the README's table is made of.
//!
//! **The page of a run is made of its files.** `report.html` ([`session::write_page`]) reads what the run has left beside the model, so that it
//! can be made anew, and holds it as JSON that cannot end its element; a script of its own turns it into text nodes.
//!
//! # As a library
//! `examples/finetune.rs` does the quickstart, `cargo run --release --example finetune`:
//! ```no_run
#![doc = include_str!("../examples/finetune.rs")]
//! ```
//!
//! # Units
//! Losses and entropies are in nats, lengths in tokens, durations in seconds, memory in bytes.

// They panic where a stream is closed: `cli::out` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod autograd;
pub mod batch;
pub mod cache;
pub mod chat;
pub mod cli;
pub mod cuda;
pub mod data;
pub mod device;
#[cfg(engine_emulated)]
pub mod emulated;
pub mod error;
pub mod eval;
pub mod foreign;
pub mod generate;
pub mod host;
pub mod hub;
pub mod io;
pub mod model;
pub mod ops;
pub mod session;
pub mod train;
