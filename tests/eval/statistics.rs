//! Intervals and tests against values of the literature and of scipy and statsmodels.

use engine::eval::statistics::{changes, mcnemar, mean_interval, paired_difference, wilson};

#[test]
fn wilsons_interval_is_that_of_statsmodels() {
    // statsmodels.stats.proportion.proportion_confint(count, n, method="wilson")
    for (count, total, low, high) in [
        (8, 20, 0.218_806_532_372_817_05, 0.613_418_499_237_746_9),
        (18, 20, 0.698_966_354_771_512_7, 0.972_133_518_786_232_1),
        (0, 20, 0.0, 0.161_125_158_052_819_4),
        (20, 20, 0.838_874_841_947_180_4, 1.0),
    ] {
        let found = wilson(count, total);
        assert!((found.0 - low).abs() < 1e-12 && (found.1 - high).abs() < 1e-12, "{count} of {total}: {found:?}");
    }
    assert_eq!(wilson(0, 0), (0.0, 1.0));
}

#[test]
fn mcnemars_test_is_the_binomial_one() {
    // scipy.stats.binomtest(min(b, c), b + c, 0.5).pvalue
    for (better, worse, p) in [
        (10, 0, 0.001_953_125),
        (0, 10, 0.001_953_125),
        (7, 3, 0.343_75),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (1100, 900, 8.457_089_535_503_81e-6),
    ] {
        let found = mcnemar(better, worse);
        assert!((found - p).abs() <= 1e-9 * p, "{better}, {worse}: {found}");
    }
}

#[test]
fn the_interval_of_a_paired_difference_is_tangos() {
    // tests/fixtures/eval/make_paired_interval.py
    for (better, worse, total, low, high) in [
        (12, 2, 50, 0.061112407, 0.344708747),
        (40, 20, 160, 0.030864532, 0.218064244),
        (0, 0, 20, -0.161125158, 0.161125158),
        (0, 3, 20, -0.360418865, 0.035293933),
        (5, 0, 1000, 0.001154108, 0.011650955),
        (20, 0, 20, 0.677749684, 1.0),
    ] {
        let found = paired_difference(better, worse, total);
        assert!((found.0 - low).abs() < 1e-6 && (found.1 - high).abs() < 1e-6, "{better}, {worse}: {found:?}");
        let turned = paired_difference(worse, better, total);
        assert!((found.0 + turned.1).abs() < 1e-9 && (found.1 + turned.0).abs() < 1e-9, "{found:?} {turned:?}");
    }
    assert_eq!(paired_difference(0, 0, 0), (-1.0, 1.0));
}

#[test]
fn the_interval_of_a_mean_is_students() {
    // scipy.stats.t.interval(0.95, n - 1, mean(x), sem(x)); quantiles are kept to three decimals.
    for (values, mean, half) in
        [(&[18.0, 17.0, 19.0, 20.0][..], 18.5, 2.054_260_255_760_573), (&[0.5, 0.7], 0.6, 1.270_620_473_617_471)]
    {
        let (found_mean, found_half) = mean_interval(values).unwrap();
        assert!(
            (found_mean - mean).abs() < 1e-12 && (found_half / half - 1.0).abs() < 5e-4,
            "{found_mean} {found_half}"
        );
    }
    assert_eq!((mean_interval(&[1.0]), mean_interval(&[]), mean_interval(&[1.0; 31])), (None, None, None));
    assert_eq!(mean_interval(&[1.0; 30]), Some((1.0, 0.0)));
}

#[test]
fn changes_are_those_of_the_same_prompts() {
    let before = [("a", false), ("b", true), ("c", true), ("d", false)];
    let after = [("a", true), ("b", true), ("c", false), ("d", true)];
    assert_eq!(changes(&before, &after), Some((2, 1)));
    assert_eq!(changes(&before[..3], &after), None);
    assert_eq!(changes(&before, &[("a", true), ("b", true), ("c", false), ("e", true)]), None);
}
