//! Work that comes again and again in a few sizes: queued kernel by kernel the first time, captured into a graph the second, and
//! replayed from then on, so that the host sends what is new and launches once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;

use super::driver::Graph;
use super::{Device, GraphMemory};
use crate::error::Result;

/// What the work of one size reads and what changes from one time to the next.
pub trait Inputs {
    /// Sends them to the device.
    fn send(&self) -> Result<()>;

    /// Sends `new`, of the same size and not sent itself, to where these lie.
    fn replace(&self, new: &Self) -> Result<()>;
}

/// The graphs of one kind of work, by its size.
pub struct Graphs<Size, In, Out> {
    /// None: seen once, not captured yet. The graphs go before the memory that they use.
    known: RefCell<HashMap<Size, Option<Captured<In, Out>>>>,
    most: usize,
    memory: GraphMemory,
}

struct Captured<In, Out> {
    graph: Box<dyn Graph>,
    /// Their addresses must stay.
    inputs: In,
    /// So must those of what it writes for others.
    output: Out,
}

impl<Size: Eq + Hash, In: Inputs, Out: Clone> Graphs<Size, In, Out> {
    /// At most `most` of them; work of yet another size is queued kernel by kernel.
    pub fn new(device: &Device, most: usize) -> Self {
        Self { known: RefCell::default(), most, memory: GraphMemory::of(device) }
    }

    /// Sends the inputs of work of this size, and queues the work: by `queue`, or as the graph of what `queue` once queued. Gives
    /// what `queue` gives, which later work of this size writes again.
    ///
    /// All that `queue` reads beside the inputs must have the same addresses whenever work of this size comes.
    pub fn run(&self, size: Size, inputs: In, queue: impl FnOnce(&In) -> Result<Out>) -> Result<Out> {
        let mut known = self.known.borrow_mut();
        match known.get(&size) {
            Some(Some(captured)) => {
                captured.inputs.replace(&inputs)?;
                captured.graph.launch()?;
                Ok(captured.output.clone())
            }
            Some(None) => {
                let captured = self.memory.within(|| self.capture(inputs, queue))?;
                captured.graph.launch()?;
                let output = captured.output.clone();
                known.insert(size, Some(captured));
                Ok(output)
            }
            None => {
                // The first of its size: memory is allocated, algorithms are chosen, modules are loaded.
                let output = self.memory.within(|| {
                    inputs.send()?;
                    queue(&inputs)
                })?;
                if known.len() < self.most {
                    known.insert(size, None);
                }
                Ok(output)
            }
        }
    }

    fn capture(&self, inputs: In, queue: impl FnOnce(&In) -> Result<Out>) -> Result<Captured<In, Out>> {
        inputs.send()?;
        let driver = self.memory.device().driver();
        driver.begin_capture()?;
        let queued = queue(&inputs);
        // The capture must end whatever happened in it.
        let graph = driver.end_capture();
        let output = queued?;
        Ok(Captured { graph: graph?, inputs, output })
    }
}
