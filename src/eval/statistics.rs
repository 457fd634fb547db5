//! How much a score says: a share of twenty prompts is one draw.

/// Of a standard normal distribution, what 95 % lie within.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of the share that `count` of `total` estimates, as shares from 0 to 1. Of nothing, nothing is known.
pub fn wilson(count: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    let (n, share) = (total as f64, count as f64 / total as f64);
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// McNemar's exact test of two scores on the same prompts, two-sided: the probability that as uneven a number of prompts, or a
/// more uneven one, got `better` and `worse` by chance.
pub fn mcnemar(better: usize, worse: usize) -> f64 {
    let (n, fewer) = (better + worse, better.min(worse));
    // The binomial coefficients by logarithms: 2^-n underflows at a thousand prompts.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += log_term.exp();
        log_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Tango's 95 % score interval of the difference of two shares of the same `total` prompts, `better` of which the second alone got
/// right and `worse` the first alone. 0 is in it where the normal form of McNemar's test sees no difference, and it has a width
/// also where nothing changed. Of no prompts, nothing is known.
///
/// Source: Tango, Statistics in Medicine 17 (1998). `d` is in it when `(better - worse - n d)^2 <= Z^2 n (2 q + d - d^2)` with q, the share
/// that gets worse, at its likeliest given d.
pub fn paired_difference(better: usize, worse: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (-1.0, 1.0);
    }
    let (b, c, n) = (better as f64, worse as f64, total as f64);
    let is_inside = |d: f64| {
        let linear = (2.0 * n - b + c) * d - b - c;
        let root = (linear * linear + 8.0 * n * c * d * (1.0 - d)).max(0.0).sqrt();
        let q = (root - linear) / (4.0 * n);
        let gap = b - c - n * d;
        gap * gap <= Z * Z * n * (2.0 * q + d - d * d)
    };
    let middle = (b - c) / n;
    let bound = |end: f64| {
        let (mut inside, mut outside) = (middle, end);
        for _ in 0..60 {
            let between = 0.5 * (inside + outside);
            *(if is_inside(between) { &mut inside } else { &mut outside }) = between;
        }
        inside
    };
    (bound(-1.0), bound(1.0))
}

/// What 95 % of Student's t lie within, for 1, 2, .. degrees of freedom.
const T: [f64; 29] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
];

/// The mean of 2 to 30 measurements, and half the width of its 95 % interval by Student's t.
pub fn mean_interval(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    let t = T.get(values.len().checked_sub(2)?)?;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
    Some((mean, t * (variance / n).sqrt()))
}

/// How many prompts are right now and were not, and the reverse: `before` and `after` by prompt, in the same order. None: they are
/// not of the same prompts.
pub fn changes<T: PartialEq>(before: &[(T, bool)], after: &[(T, bool)]) -> Option<(usize, usize)> {
    if before.len() != after.len() || before.iter().zip(after).any(|(was, is)| was.0 != is.0) {
        return None;
    }
    let count = |was: bool, is: bool| before.iter().zip(after).filter(|(b, a)| b.1 == was && a.1 == is).count();
    Some((count(false, true), count(true, false)))
}
