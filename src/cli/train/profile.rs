//! `--profile`: where the time of the steps went, beside what this machine could do at best.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use crate::device::DType;
use crate::device::profiled::{self, Form, Op, Profile, Work};
use crate::error::{Error, Result};
use crate::host::products::choice::Kernel;
use crate::host::products::peak;
use crate::session::ComputeDevice;

/// More than any cache holds.
const MEMORY_BYTES: usize = 256 << 20;

/// Keeps account of the steps.
pub struct Profiler {
    profile: Rc<RefCell<Profile>>,
    started: Cell<Instant>,
}

impl Profiler {
    /// Puts the account around a device.
    ///
    /// # Errors
    /// A usage error: it is a GPU, whose ops end after they are called.
    pub fn around(on: &mut ComputeDevice) -> Result<Self> {
        if !on.device.driver().is_host() {
            return Err(Error::usage("`--profile` measures the CPU")
                .hint("give `--device cpu`, or look at a GPU with `nsys profile engine train ..`"));
        }
        let (device, profile) = profiled::device(&on.device);
        on.device = device;
        Ok(Self { profile, started: Cell::new(Instant::now()) })
    }

    /// What was done so far does not count.
    pub fn begin(&self) {
        self.profile.borrow_mut().work.clear();
        self.started.set(Instant::now());
    }

    /// The account, of a run that computes in `dtype`, largest part first.
    pub fn table(&self, dtype: DType) -> String {
        let seconds = self.started.get().elapsed().as_secs_f64();
        let kernel = if dtype == DType::F32 { Kernel::chosen().in_f32() } else { Kernel::chosen() };
        // Something else may run just when the best is measured: what was reached is no less than it.
        let reached = self.profile.borrow().work.values().map(|work| work.flop / work.seconds).fold(0.0, f64::max);
        let machine = Machine {
            kernel: kernel.name(),
            flop_rate: peak::flop_rate_of_all(kernel).max(reached),
            read_rate: peak::read_rate(MEMORY_BYTES),
        };
        table(&self.profile.borrow(), seconds, &machine)
    }
}

/// What a machine could do at best, a second.
struct Machine {
    /// What multiplies.
    kernel: &'static str,
    flop_rate: f64,
    read_rate: f64,
}

fn table(profile: &Profile, seconds: f64, machine: &Machine) -> String {
    let mut rows: Vec<(&Op, &Work)> = profile.work.iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let mut text = format!(
        "profile: {seconds:.2} s from the first step to the saved model; at best {:.0} GFLOP/s ({}), {:.1} GB/s read from \
         memory\n{:<40}{:>8}{:>10}{:>7}{:>10}{:>6}{:>9}{:>6}\n",
        machine.flop_rate / 1e9,
        machine.kernel,
        machine.read_rate / 1e9,
        "op",
        "calls",
        "seconds",
        "",
        "GFLOP/s",
        "",
        "GB/s",
        ""
    );
    for (op, work) in rows {
        let rate = |amount: f64, best: f64| match amount {
            0.0 => [String::new(), String::new()],
            _ => {
                let rate = amount / work.seconds;
                [format!("{:.1}", rate / 1e9), format!("{:.0} %", 100.0 * rate / best)]
            }
        };
        let [flop, of_flop] = rate(work.flop, machine.flop_rate);
        let [bytes, of_bytes] = rate(work.bytes, machine.read_rate);
        text += &format!(
            "{:<40}{:>8}{:>10.3}{:>7}{flop:>10}{of_flop:>6}{bytes:>9}{of_bytes:>6}\n",
            name(op),
            work.calls,
            work.seconds,
            share(work.seconds, seconds),
        );
    }
    let inside: f64 = profile.work.values().map(|work| work.seconds).sum();
    text += &format!("{:<48}{:>10.3}{:>7}\n", "outside ops", seconds - inside, share(seconds - inside, seconds));
    let floor = floor(profile, machine);
    text + &format!(
        "floor: {floor:.2} s, {} of the time: the products at the best rate, and the pass of AdamW at that of memory",
        share(floor, seconds)
    )
}

/// The least that the products and AdamW could take, in seconds.
fn floor(profile: &Profile, machine: &Machine) -> f64 {
    let of = |(op, work): (&Op, &Work)| match op {
        Op::Product { .. } => work.flop / machine.flop_rate,
        Op::Other(name) if name == "adamw" => work.bytes / machine.read_rate,
        Op::Other(_) => 0.0,
    };
    profile.work.iter().map(of).sum()
}

fn share(part: f64, of: f64) -> String {
    format!("{:.1} %", 100.0 * part / of)
}

fn name(op: &Op) -> String {
    match op {
        Op::Product { form, outputs, inputs, dtype } => {
            let form = match form {
                Form::Forward => "y = x W^T",
                Form::OfInput => "dx = dy W",
                Form::OfWeight => "dW += dy^T x",
            };
            format!("{form}, W {outputs} x {inputs}, {dtype}")
        }
        Op::Other(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_products_and_adamw_at_the_machines_best() {
        let mut profile = Profile::default();
        let product = Op::Product { form: Form::OfInput, outputs: 30, inputs: 4, dtype: "f32" };
        profile.work.insert(product, Work { calls: 1, seconds: 2.0, flop: 1e9, bytes: 1e9 });
        let pass = Work { calls: 5, seconds: 1.0, flop: 0.0, bytes: 3e9 };
        profile.work.insert(Op::Other("adamw".into()), pass);
        profile.work.insert(Op::Other("zero".into()), pass);
        let machine = Machine { kernel: "plain", flop_rate: 2e9, read_rate: 6e9 };
        assert!((floor(&profile, &machine) - 1.0).abs() < 1e-12);
        let text = table(&profile, 5.0, &machine);
        for line in [
            "dx = dy W, W 30 x 4, f32                       1     2.000 40.0 %       0.5  25 %      0.5   8 %",
            "   1.000 20.0 %\nfloor",
            "floor: 1.00 s, 20.0 % of the time",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.find("dx = dy W") < text.find("adamw"), "the largest part comes first:\n{text}");
    }
}
