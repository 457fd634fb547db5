//! `--packing`, `--max-tokens-per-batch`, `--group-by-prefix`, `--group-by-length`: how many steps they make, and what they refuse.

use crate::{metrics, of_steps, path, train};

/// The quickstart's 20 rows, of 175 to 189 tokens, of which all but about 40 are the same in each.
const EPOCH: [&str; 6] = ["--num-train-epochs", "1", "--save-strategy", "no", "--shuffle", "true"];

/// The losses of an epoch, and what was said. The flags of `train` ask for two steps of two rows.
fn epoch(extra: &[&str]) -> (usize, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let trained = train(&out, &[&EPOCH[..], &["--max-steps", "1000", "--dry-run"], extra].concat());
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let (_, batches) = trained.stderr.split_once("an epoch has ").unwrap();
    let batches = batches.split_once(" in ").unwrap().1.split(' ').next().unwrap();
    (batches.parse().unwrap(), trained.stderr)
}

#[test]
fn a_run_says_how_long_its_rows_are_and_what_shared_beginnings_save() {
    let (batches, said) = epoch(&[]);
    assert_eq!(batches, 10);
    assert!(
        said.contains("tokens of training rows: least 173, median 184, 95 % at most 193, most 196; an epoch has 3,682"),
        "{said}"
    );
    assert!(said.contains(" are computed: beginnings that rows of a batch share save 37 %"), "{said}");
}

#[test]
fn batches_are_as_large_as_asked_for() {
    // A pack of 400 tokens has two of the rows, and a batch two packs.
    assert_eq!(epoch(&["--packing", "--max-length", "400"]).0, 5);
    // In the tree the rows cost their ends alone.
    assert!(epoch(&["--max-tokens-per-batch", "400"]).0 <= 4);
    assert_eq!(epoch(&["--max-tokens-per-batch", "4000"]).0, 1);
    assert_eq!(epoch(&["--group-by-prefix", "--per-device-train-batch-size", "3"]).0, 7);
    assert_eq!(epoch(&["--group-by-length", "--gradient-accumulation-steps", "2"]).0, 10);
}

#[test]
fn a_run_in_packs_goes_through_its_rows_once_in_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let flags = ["--config", &path(&folder.path().join("train.toml")), "--packing", "--max-length", "400"];
    std::fs::write(folder.path().join("train.toml"), "num_train_epochs = 1\nsave_strategy = \"no\"\n").unwrap();
    // Packs are what a batch has so many of: 20 rows, 2 in a pack, 2 packs in a batch, of which 2 batches are trained on.
    let trained = train(&out, &flags);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let records = metrics(&out);
    assert_eq!(of_steps(&records, "epoch"), [0.2, 0.4]);
    assert_eq!(of_steps(&records, "num_tokens").len(), 2);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (flags, code, said) in [
        (
            &["--packing", "--max-tokens-per-batch", "900"][..],
            2,
            "`--packing` and `--max-tokens-per-batch` exclude each other",
        ),
        (&["--packing", "--group-by-prefix"], 2, "`--packing` and `--group-by-prefix` exclude each other"),
        (&["--group-by-prefix", "--shuffle", "false"], 2, "`--shuffle false` exclude each other"),
        (&["--group-by-prefix", "--group-by-length"], 2, "cannot be used with"),
        (&["--max-tokens-per-batch", "0"], 2, "must be at least 1"),
        (&["--max-tokens-per-batch", "x"], 2, "not a whole number"),
        (&["--packing", "--packing-strategy", "wrapped"], 2, "bfd, TRL's default"),
        (&["--max-tokens-per-batch", "180"], 1, "are longer than `--max-tokens-per-batch 180`: the longest, `"),
    ] {
        let refused = train(&out, flags);
        assert_eq!(refused.code, code, "{flags:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{flags:?}: {}", refused.stderr);
        assert!(!out.exists());
    }
}

#[test]
fn a_run_does_not_go_on_with_other_batches() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let flags = ["--max-tokens-per-batch", "300", "--save-strategy", "steps", "--save-steps", "1"];
    assert_eq!(train(&out, &flags).code, 0);
    let refused = train(&out, &["--resume-from-checkpoint", "--max-tokens-per-batch", "400", "--max-steps", "3"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("`--max-tokens-per-batch` was 300, now it is 400"), "{}", refused.stderr);
}
