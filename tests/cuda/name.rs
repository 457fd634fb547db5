//! `--device cuda` and `--device cuda:1`.

use engine::cuda::Name;

#[test]
fn a_gpu_is_named_with_or_without_its_number() {
    for (name, meant) in [("cuda", Name::First), ("cuda:0", Name::Index(0)), ("cuda:12", Name::Index(12))] {
        assert_eq!(name.parse::<Name>().unwrap(), meant);
        assert_eq!(meant.to_string(), name);
    }
}

#[test]
fn other_names_are_usage_errors_that_say_what_is_one() {
    let names = ["", "cpu", "cuda:", "cuda0", "cuda:-1", "cuda:+1", "cuda:1 ", "cuda:x", "CUDA", "cuda:1:2"];
    for name in names.into_iter().chain(["cuda:99999999999999999999"]) {
        let error = name.parse::<Name>().unwrap_err();
        assert_eq!(error.exit_code(), 2, "{name}");
        assert!(error.report().contains(&format!("`{name}`")), "{}", error.report());
        assert!(error.report().contains("`cuda:0`"), "{}", error.report());
    }
}
