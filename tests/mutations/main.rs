//! Kernels and the CUDA device broken on purpose, one place at a time as `kernels/mutations.toml` and `src/cuda/mutations.toml`
//! list them: a test must turn red each time.
//!
//! `scripts/mutate-kernels` and `scripts/mutate-cuda` run them all and print what was caught and by which test; that takes
//! minutes, and is no part of `cargo test`. What is: that the lists still fit.

#[cfg(engine_emulated)]
mod driver;
mod list;
#[cfg(engine_emulated)]
mod rebuild;

use std::collections::BTreeMap;
use std::path::Path;

use list::Mutation;

#[test]
fn every_mutation_fits_in_exactly_one_place() {
    for folder in [list::kernels(), list::cuda()] {
        let faults: Vec<String> = list::read(&folder).iter().filter_map(|mutation| mutation.mutated().err()).collect();
        assert!(faults.is_empty(), "{}/mutations.toml does not fit:\n{}", folder.display(), faults.join("\n"));
    }
}

#[test]
fn every_kernel_is_broken_in_at_least_three_ways() {
    let mut ways = BTreeMap::<String, usize>::new();
    list::read(&list::kernels()).into_iter().for_each(|mutation| *ways.entry(mutation.file).or_default() += 1);
    for entry in std::fs::read_dir(list::kernels()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // The table has no arithmetic of its own: it links or it does not.
        if name.ends_with(".cu") && name != "table.cu" {
            let ways = ways.get(&name).copied().unwrap_or(0);
            assert!(ways >= 3, "kernels/mutations.toml breaks {name} in {ways} ways");
        }
    }
}

/// Those of a folder's list whose file or description contains `$ENGINE_MUTATE`; all without it.
fn chosen(folder: &Path) -> Vec<Mutation> {
    let word = std::env::var("ENGINE_MUTATE").unwrap_or_default();
    list::read(folder).into_iter().filter(|m| m.file.contains(&word) || m.what.contains(&word)).collect()
}

#[cfg(engine_emulated)]
#[test]
#[ignore = "takes minutes: scripts/mutate-kernels"]
fn every_mutation_turns_a_test_red() {
    use rebuild::{Outcome, Rebuild};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    let jobs = std::env::var("ENGINE_MUTATE_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let mutations = chosen(&list::kernels());
    // A test that is red anyway would catch everything.
    let mut limits = BTreeMap::new();
    for tests in mutations.iter().map(|mutation| &mutation.tests) {
        limits.entry(tests.clone()).or_insert_with(|| {
            let (outcome, time) = Rebuild::new(0).run(&[], tests, Duration::from_secs(600));
            assert!(matches!(outcome, Outcome::Passed), "without any mutation, {}: {outcome}", tests.join(", "));
            time * 3 * jobs + Duration::from_secs(30)
        });
    }
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |job: u32| {
        let rebuild = Rebuild::new(job);
        while let Some(mutation) = mutations.get(next.fetch_add(1, Ordering::Relaxed)) {
            let objects = rebuild.compile(mutation);
            let (outcome, time) = rebuild.run(&objects, &mutation.tests, limits[&mutation.tests]);
            let caught = !matches!(outcome, Outcome::Passed);
            missed.fetch_add(usize::from(!caught), Ordering::Relaxed);
            let verdict = if caught { "caught" } else { "MISSED" };
            println!("{verdict}  {:22} {:72} {outcome}, {:.0} s", mutation.file, mutation.what, time.as_secs_f64());
        }
    };
    std::thread::scope(|scope| {
        for job in 0..jobs {
            scope.spawn(move || work(job));
        }
    });
    let missed = missed.into_inner();
    println!("\n{} mutations: {} caught, {missed} missed", mutations.len(), mutations.len() - missed);
    assert!(missed == 0 && !mutations.is_empty());
}

#[cfg(engine_emulated)]
#[test]
#[ignore = "takes minutes: scripts/mutate-cuda"]
fn every_mutation_of_the_driver_turns_a_test_red() {
    use rebuild::Outcome;
    let (driver, mutations) = (driver::Driver::new(), driver::chosen());
    let (outcome, _) = driver.run(None);
    assert!(matches!(outcome, Outcome::Passed), "without any mutation: {outcome}");
    let mut missed = 0;
    for mutation in &mutations {
        let (outcome, time) = driver.run(Some(mutation));
        let caught = !matches!(outcome, Outcome::Passed);
        missed += usize::from(!caught);
        let verdict = if caught { "caught" } else { "MISSED" };
        println!("{verdict}  {:14} {:60} {outcome}, {:.0} s", mutation.file, mutation.what, time.as_secs_f64());
    }
    println!("\n{} mutations: {} caught, {missed} missed", mutations.len(), mutations.len() - missed);
    assert!(missed == 0 && !mutations.is_empty());
}

#[cfg(not(engine_emulated))]
#[test]
#[ignore = "needs a C++20 compiler (g++ or clang++): the build went on without the emulated device"]
fn every_mutation_turns_a_test_red() {
    panic!("{} mutations, and no emulated device", chosen(&list::kernels()).len());
}
