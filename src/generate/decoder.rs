//! Sequences that are continued together over one key-value cache, and that come and go while others are decoded.
//!
//! [`Decoder::admit`] takes prompts in, [`Decoder::step`] chooses one token for every sequence, [`Decoder::append`] adds
//! tokens that nobody chose (a tool's response), [`Decoder::evict`] lets a sequence go. Keys and values are computed when a
//! step needs them: what was admitted or appended since the last one as one batch, the tokens chosen last as another.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cached_model::{CachedModel, Wanted, spare_slots};
use super::sampling::Sampling;
use super::slots::{Row, Slots};
use crate::device::room;
use crate::error::Result;
use crate::model::gemma3::Gemma3;
use crate::{bail, err};

/// What a slot takes beside its keys and values.
const SLOT_BYTES: u64 = 16;

/// A sequence of a decoder, by its number: they count from 0 in the order of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub usize);

/// What a step chose for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub sequence: Sequence,
    pub token: u32,
    /// It is a stop token: the sequence rests until something is appended to it.
    pub stopped: bool,
}

/// Sequences over one cache. What is chosen for one does not depend on the others.
pub struct Decoder<'m> {
    model: CachedModel<'m>,
    stop: Vec<u32>,
    sampling: Option<Sampling>,
    slots: Slots,
    /// Of prompts and appended tokens: not in the cache yet.
    queue: Vec<Row>,
    sequences: BTreeMap<Sequence, State>,
    admitted: usize,
}

/// Where a sequence is.
struct State {
    /// The first of its own slots.
    reserved: u32,
    /// How many there are, and how many are filled.
    room: usize,
    used: usize,
    /// Tokens that have a slot, the prompt's included.
    len: usize,
    /// Slot of the last of them.
    last: u32,
    next: Next,
    rng: Option<ChaCha8Rng>,
}

#[derive(Clone, Copy, PartialEq)]
enum Next {
    /// Its last tokens are in the queue.
    Queued,
    /// This token was chosen last and has no slot yet.
    Chosen(u32),
    /// So was this one, and it is a stop token.
    Stopped(u32),
}

impl<'m> Decoder<'m> {
    /// A decoder whose cache has `slots` slots: a prompt takes one for each token that it does not share with others, and its
    /// room. `sampling` None: always the likeliest token.
    pub fn new(model: &'m Gemma3, slots: usize, stop: &[u32], sampling: Option<Sampling>) -> Result<Self> {
        if slots > u32::MAX as usize / 2 {
            bail!("{slots} slots are more than can be counted");
        }
        room::require(slots as u64 * SLOT_BYTES, "the slots of the cache")?;
        let slots = Slots::new(slots, spare_slots(model));
        let model = CachedModel::new(model, slots.tree(), sampling.clone())?;
        let (queue, sequences) = (Vec::new(), BTreeMap::new());
        Ok(Self { model, stop: stop.to_vec(), sampling, slots, queue, sequences, admitted: 0 })
    }

    /// Every kernel is queued by itself, also where the device captures graphs: slower there, with the same tokens.
    pub fn without_graphs(self) -> Self {
        Self { model: self.model.without_graphs(), ..self }
    }

    /// Takes prompts in, each with room for `room` more tokens. What prompts have in common is computed once.
    ///
    /// # Errors
    /// A prompt is empty, or they do not fit: then nothing has changed.
    pub fn admit(&mut self, prompts: &[&[u32]], room: usize) -> Result<Vec<Sequence>> {
        if let Some(i) = prompts.iter().position(|prompt| prompt.is_empty()) {
            bail!("prompt {} is empty", i + 1);
        }
        let room = room.max(1);
        let (free, len) = (self.slots.num_free(), self.slots.num_slots());
        let placed = self.slots.place(prompts, room).ok_or_else(|| {
            err!("{} prompts with room for {room} tokens do not fit: {free} of {len} slots are free", prompts.len())
        })?;
        self.queue.extend(placed.rows);
        self.model.expect_positions(prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0) + room);
        let admit = |(prompt, place): (&&[u32], super::slots::Place)| {
            let sequence = Sequence(self.admitted);
            self.admitted += 1;
            let rng = self.sampling.as_ref().map(|sampling| stream(sampling.seed, sequence));
            let (len, last) = (prompt.len(), place.last);
            let state = State { reserved: place.reserved, room, used: 0, len, last, next: Next::Queued, rng };
            self.sequences.insert(sequence, state);
            sequence
        };
        Ok(prompts.iter().zip(placed.places).map(admit).collect())
    }

    /// Adds tokens that the model reads and did not choose. The next step continues after them.
    ///
    /// # Errors
    /// The sequence is gone, or has no room for them: then nothing has changed.
    pub fn append(&mut self, sequence: Sequence, tokens: &[u32]) -> Result<()> {
        let state = self.sequences.get_mut(&sequence).ok_or_else(|| gone(sequence))?;
        let chosen = match state.next {
            Next::Queued => None,
            Next::Chosen(token) | Next::Stopped(token) => Some(token),
        };
        if tokens.is_empty() {
            return Ok(());
        }
        state.require_room(sequence, tokens.len() + usize::from(chosen.is_some()))?;
        let rows = chosen.iter().chain(tokens).map(|&token| state.fill(&mut self.slots, token));
        self.queue.extend(rows);
        state.next = Next::Queued;
        Ok(())
    }

    /// Chooses the next token of every sequence that does not rest. What was chosen is in the order of the sequences.
    ///
    /// # Errors
    /// A sequence has no room for the token that was chosen last: then nothing has changed. Or the device fails.
    pub fn step(&mut self) -> Result<Vec<Chosen>> {
        let (mut queued, mut decoding) = (Vec::new(), Vec::new());
        for (&sequence, state) in &self.sequences {
            match state.next {
                Next::Queued => queued.push(sequence),
                Next::Chosen(_) => {
                    state.require_room(sequence, 1)?;
                    decoding.push(sequence);
                }
                Next::Stopped(_) => {}
            }
        }
        let rows = std::mem::take(&mut self.queue);
        let mut chosen = self.continue_after(rows, queued, false)?;
        let mut rows = Vec::with_capacity(decoding.len());
        for (sequence, state) in &mut self.sequences {
            if let (Next::Chosen(token), true) = (state.next, decoding.binary_search(sequence).is_ok()) {
                rows.push(state.fill(&mut self.slots, token));
            }
        }
        chosen.extend(self.continue_after(rows, decoding, true)?);
        chosen.sort_by_key(|chosen| chosen.sequence);
        Ok(chosen)
    }

    /// Lets a sequence go; its slots are free for others. In a prefix that sequences share, they are free for prompts that
    /// begin with that prefix, until the last of these has gone.
    ///
    /// # Errors
    /// It is gone already.
    pub fn evict(&mut self, sequence: Sequence) -> Result<()> {
        let state = self.sequences.remove(&sequence).ok_or_else(|| gone(sequence))?;
        self.slots.release(state.reserved, state.room);
        self.queue.retain(|row| self.slots.is_held(row.slot));
        Ok(())
    }

    /// Computes `rows` and chooses what follows the last token of each of `sequences`. `decoding`: they have a row each.
    fn continue_after(&mut self, mut rows: Vec<Row>, sequences: Vec<Sequence>, decoding: bool) -> Result<Vec<Chosen>> {
        if sequences.is_empty() {
            return Ok(Vec::new());
        }
        rows.sort_by_key(|row| row.slot);
        let after: Vec<u32> = sequences.iter().map(|sequence| self.sequences[sequence].last).collect();
        let uniforms: Vec<f32> = sequences.iter().map(|sequence| self.uniform(sequence)).collect();
        let wanted = Wanted { rows: &rows, after: &after, uniforms: &uniforms, decoding };
        let tokens = self.model.next_tokens(&self.slots, wanted)?;
        let mut chosen = Vec::with_capacity(tokens.len());
        for (sequence, token) in sequences.into_iter().zip(tokens) {
            let stopped = self.stop.contains(&token);
            if let Some(state) = self.sequences.get_mut(&sequence) {
                state.next = if stopped { Next::Stopped(token) } else { Next::Chosen(token) };
            }
            chosen.push(Chosen { sequence, token, stopped });
        }
        Ok(chosen)
    }

    /// The number in 0..1 that a sequence's next token is drawn with.
    fn uniform(&mut self, sequence: &Sequence) -> f32 {
        let rng = self.sequences.get_mut(sequence).and_then(|state| state.rng.as_mut());
        rng.map_or(0.0, |rng| rng.random())
    }
}

impl State {
    fn require_room(&self, Sequence(number): Sequence, tokens: usize) -> Result<()> {
        if self.used + tokens > self.room {
            bail!("sequence {number} is full: it was admitted with room for {} tokens", self.room);
        }
        Ok(())
    }

    /// Gives the sequence's next token a slot.
    fn fill(&mut self, slots: &mut Slots, token: u32) -> Row {
        let row = slots.fill(self.reserved, self.room, self.used, (token, self.len as u32));
        self.used += 1;
        self.len += 1;
        self.last = row.slot;
        row
    }
}

/// The random numbers of a sequence.
fn stream(seed: u64, Sequence(number): Sequence) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number as u64);
    rng
}

fn gone(Sequence(number): Sequence) -> crate::error::Error {
    err!("sequence {number} is not in the decoder (any more)")
}
