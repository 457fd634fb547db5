//! The GPU kit without a GPU: `scripts/gpu_kit/run` with the real engine on the CPU and with stand-ins for the binaries that only a GPU can show
//! something with, and the page that `scripts/gpu-report` makes of what it wrote.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The real engine, with a tiny model in the place of the 270M and a few steps.
const ENGINE: &str = r#"#!/usr/bin/env bash
echo "engine $*" >>calls
case $1 in
init) exec "$ENGINE" "${@/compare\/gemma3-270m.json/examples/quickstart/model/config.json}" ;;
train) exec "$ENGINE" "$@" --max-steps 6 ;;
*) exec "$ENGINE" "$@" ;;
esac
"#;
const TESTS: &str =
    "#!/usr/bin/env bash\necho \"$(basename $0) $*\" >>calls\necho 'test result: ok. 3 passed; 0 failed'\n";
/// One that fails, and one in which nothing ran.
const RED: &str = "#!/usr/bin/env bash\necho 'test result: FAILED. 2 passed; 1 failed'\nexit 101\n";
const EMPTY: &str = "#!/usr/bin/env bash\necho 'test result: ok. 0 passed; 0 failed'\n";
/// As `timeout` ends what takes too long, in `decode`.
const BENCHES: &str = r#"#!/usr/bin/env bash
echo "bench $ENGINE_BENCH $* sync ${ENGINE_DEBUG_SYNC:-0} early ${ENGINE_PROGRAMMATIC_LAUNCH:-1}" >>calls
case $ENGINE_BENCH in
bill)
    printf '## a step\n\n4.957 ms, 448 nodes\n\n| op | nodes |\n|---|---:|\n| adamw | 1 |\n\n'
    printf '| a step: op | nodes | ms by the bill | ms measured | times the bill |\n|---|---:|---:|---:|---:|\n'
    printf '| adamw | 1 | 2.682 | 2.900 | 1.08 |\n| all | 1 | 2.682 | 2.900 | 1.08 |\n\n'
    printf 'Launching and waiting took 7.5 us a call, which is left out.\n\n'
    ;;
step)
    echo 'step/small/bf16         time:   [1.1111 ms 1.2222 ms 1.3333 ms]'
    printf 'Benchmarking step/checkpoint/bf16/32k: Analyzing\n'
    printf 'step/checkpoint/bf16/32k\n                        time:   [110.00 ms 120.00 ms 130.00 ms]\n'
    ;;
decode)
    [[ ${ENGINE_PROGRAMMATIC_LAUNCH:-1} == 0 ]] || exit 124
    echo 'decode/20             time:   [0.4111 ms 0.4222 ms 0.4333 ms]'
    ;;
esac
"#;
const SANITIZER: &str = r#"#!/usr/bin/env bash
echo "sanitizer $2, products ${ENGINE_PRODUCTS:-timed}" >>calls
case $2 in
memcheck) echo '========= ERROR SUMMARY: 0 errors' ;;
racecheck) echo '========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)' ;;
esac
shift 4
exec "$@"
"#;
/// TRL runs by sdpa alone; Liger is slower here.
const PEER: &str = r#"
import json, sys
if "eager" in sys.argv or "float32" in sys.argv:
    sys.exit("no such thing")
print("a line of somebody's log")
print(json.dumps({"seconds": 0.05 if "--liger" in sys.argv else 0.04, "losses": [7.25, 5.5], "peak_memory_bytes": 9000000000,
                  "versions": "trl 1"}))
"#;

/// A kit in a folder of its own.
struct Kit(TempDir);

impl Kit {
    fn new() -> Self {
        let kit = Self(tempfile::tempdir().unwrap());
        for folder in ["bin", "compare", "examples"] {
            fs::create_dir(kit.path(folder)).unwrap();
        }
        let quickstart = Path::new(ROOT).join("examples/quickstart");
        assert!(Command::new("cp").arg("-r").arg(quickstart).arg(kit.path("examples")).status().unwrap().success());
        fs::copy(Path::new(ROOT).join("scripts/gpu_kit/run"), kit.path("run")).unwrap();
        fs::write(kit.path("BUILT"), "abc1234\nnvcc 13.0.88\n").unwrap();
        fs::write(kit.path("compare/peer.py"), PEER).unwrap();
        for (name, text) in [("engine", ENGINE), ("ops", TESTS), ("cuda", RED), ("model", EMPTY), ("gpu_kit", BENCHES)]
        {
            kit.program(&format!("bin/{name}"), text);
        }
        kit.program("sanitizer", SANITIZER);
        kit.program("nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06, 1980 MHz, 2619 MHz'\n");
        kit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, parts: &[&str]) -> Output {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        let mut run = Command::new(self.path("run"));
        run.args(parts).env("PATH", path).env("ENGINE", env!("CARGO_BIN_EXE_engine"));
        run.env("ENGINE_KIT_DEVICE", "cpu").env("ENGINE_KIT_STEPS", "6").env("ENGINE_KIT_LIMIT", "500");
        run.env("COMPUTE_SANITIZER", self.path("sanitizer")).output().unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

fn report(logs: &Path, into: &Path) -> Output {
    let script = Path::new(ROOT).join("scripts/gpu-report");
    Command::new("python3").arg(script).arg(logs).arg("--into").arg(into).output().unwrap()
}

#[test]
fn every_part_runs_whatever_became_of_those_before_and_a_page_is_made_of_them() {
    let kit = Kit::new();
    let output = kit.run(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let summary = kit.read("logs/summary.log");
    let words: Vec<(&str, &str)> = summary.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let expected = [
        ("smoke", "passed"),
        ("cuda", "FAILED"),
        ("ops", "passed"),
        ("memcheck", "passed"),
        ("racecheck", "FAILED"),
        ("model", "FAILED"),
        ("train", "passed"),
        ("tutorial", "passed"),
        ("peer", "passed"),
        ("bill", "passed"),
        ("step", "passed"),
        ("decode", "FAILED at its limit"),
        ("decode-serial", "passed"),
        ("bench-ops", "passed"),
    ];
    assert_eq!(words.len(), expected.len(), "{summary}");
    for ((name, word), (part, expected)) in words.into_iter().zip(expected) {
        assert!(name == part && word.trim().starts_with(&format!("{expected},")), "{summary}\n{}", kit.read("calls"));
    }
    let calls = kit.read("calls");
    for call in [
        "sanitizer memcheck, products heuristic\nops --test-threads 1 --skip=the_gradient_equals",
        "bench bill --bench sync 1 early 1\n",
        "bench step --bench sync 0 early 1\n",
        "bench decode --bench sync 0 early 0\n",
    ] {
        assert!(calls.contains(call), "{call}: {calls}");
    }
    assert_eq!(calls.matches("engine init").count(), 1, "{calls}");

    let into = tempfile::tempdir().unwrap();
    let made = report(&kit.path("logs"), into.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = fs::read_to_string(String::from_utf8(made.stdout).unwrap().trim()).unwrap();
    assert!(page.contains(", NVIDIA H100 80GB HBM3\n"), "{page}");
    for line in [
        "    racecheck    FAILED, ",
        "| TRL | dtype bfloat16 attention sdpa --liger | 50.00 | ",
        "| a step: op | nodes | ms by the bill | ms measured | times the bill |\n|---|---:|---:|---:|---:|\n| adamw | 1 | 2.682 |",
        "Launching and waiting took 7.5 us a call, which is left out.",
        "| step/checkpoint/bf16/32k | 120.00 ms |",
        "## decode\n\nnothing was measured",
        "| decode/20 | 0.4222 ms |",
    ] {
        assert!(page.contains(&line.replace(" --liger", " liger")), "{line}\n{page}");
    }
    assert!(!page.contains("448 nodes"), "the bill alone is elsewhere: {page}");
    // Of TRL's ways the fastest, beside the engine in the same type.
    let table = fs::read_to_string(into.path().join("compare.csv")).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[0].starts_with("date,machine,commit,model,job,dtype,who,seconds,"), "{table}");
    let of_peer = ",NVIDIA H100 80GB HBM3,abc1234,Gemma 3 270M's shape,\"step, batch 4\",bf16,TRL,0.040000,7.25,5.5,9000000000,trl 1,";
    assert!(rows[1].contains(of_peer), "{table}");
    assert!(rows[2].contains(",bf16,engine,") && rows[2].contains(",engine 0.1.0,"), "{table}");
}

#[test]
fn parts_are_chosen_by_name_and_others_are_refused() {
    let kit = Kit::new();
    assert!(kit.run(&["ops", "step"]).status.success());
    assert!(kit.read("calls").starts_with("ops --test-threads 1\nengine init "), "{}", kit.read("calls"));
    assert_eq!(kit.read("logs/summary.log").lines().count(), 2);
    let refused = kit.run(&["ops", "memory"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("no part `memory`; there are: smoke cuda ops"));
}

#[test]
fn a_page_says_what_is_missing_and_takes_lines_that_were_cut_off() {
    let (logs, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let refused = report(logs.path(), into.path());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has no machine.log"));
    fs::write(logs.path().join("machine.log"), "2026-12-01T10:00:00Z\nabc\nno nvidia-smi: is there a driver?\n")
        .unwrap();
    fs::write(
        logs.path().join("results.jsonl"),
        "{\"who\":\"engine\",\"dtype\":\"bf16\",\"seconds\":0.005}\n{\"who\":\"TR",
    )
    .unwrap();
    assert!(report(logs.path(), into.path()).status.success());
    let page = fs::read_to_string(into.path().join("2026-12-01-unknown-card.md")).unwrap();
    assert!(page.contains("| engine | bf16 | 5.00 | |\n"), "{page}");
    assert_eq!(page.matches("nothing was measured").count(), 5, "{page}");
    let table = fs::read_to_string(into.path().join("compare.csv")).unwrap();
    assert_eq!(table.lines().count(), 1, "{table}");
}

/// The tests that the kit carries read these there.
#[test]
fn the_kit_has_the_fixtures_of_its_tests() {
    let script = fs::read_to_string(Path::new(ROOT).join("scripts/gpu-kit")).unwrap();
    let tests = script.lines().find_map(|line| line.strip_prefix("tests=(")).unwrap().trim_end_matches(')');
    let mut code = String::new();
    for file in tests.split(' ').flat_map(|name| fs::read_dir(Path::new(ROOT).join("tests").join(name)).unwrap()) {
        let path = file.unwrap().path();
        code += &if path.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
    }
    let mut found = 0;
    for entry in fs::read_dir(Path::new(ROOT).join("tests/fixtures")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let said = [format!("fixtures/{name}\""), format!(".join(\"{name}\")"), format!(".join(\"{name}/")];
        if said.iter().any(|said| code.contains(said)) {
            assert!(
                script.contains(&format!("tests/fixtures/{name} ")),
                "scripts/gpu-kit leaves out tests/fixtures/{name}"
            );
            found += 1;
        }
    }
    assert_eq!(found, 2, "gemma3_tiny and lora");
}
