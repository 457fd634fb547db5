//! A GPU is chosen only on a machine that can run it, and each reason against one says what and what to do.

use cudarc::driver::sys::CUresult;
use engine::cuda::facts::{Failure, Gpu, LEAST_BYTES, Machine};
use engine::cuda::{Name, Survey};

/// A machine that is as it should be.
fn machine() -> Machine {
    Machine { runtime: Some(13000), driver: Some(13000), cublaslt: Some(130_002), ..Machine::default() }
}

fn gpu(index: usize, capability: (i32, i32)) -> Gpu {
    let name = format!("NVIDIA {capability:?}");
    Gpu { index, name, capability, total_bytes: 80_000_000_000, multiprocessors: 132, prohibited: false }
}

/// `report` tells each of `parts`, has a hint, and the hint's last way out is always there.
#[track_caller]
fn tells(report: &str, parts: &[&str]) {
    for part in parts {
        assert!(report.contains(part), "no `{part}` in {report}");
    }
    let hint = report.split("\n\nhint: ").nth(1).unwrap_or_else(|| panic!("no hint in {report}"));
    assert!(hint.contains("`--device cpu`"), "{hint}");
}

#[track_caller]
fn machine_tells(machine: &Machine, parts: &[&str]) {
    let survey = Survey { machine: machine.clone(), gpus: vec![gpu(0, (9, 0))] };
    let fault = survey.machine.fault().expect("a fault").report();
    tells(&fault, parts);
    for name in [Name::First, Name::Index(0)] {
        assert_eq!(survey.choose(name).unwrap_err().report(), fault);
    }
    assert_eq!(survey.fault_of(&survey.gpus[0]).unwrap().report(), fault);
}

#[track_caller]
fn gpu_tells(gpu: &Gpu, machine: &Machine, parts: &[&str]) {
    let survey = Survey { machine: machine.clone(), gpus: vec![gpu.clone()] };
    let fault = survey.fault_of(gpu).expect("a fault").report();
    tells(&fault, parts);
    assert!(fault.contains(&format!("`cuda:0` ({})", gpu.name)), "{fault}");
    assert_eq!(survey.choose(Name::First).unwrap_err().report(), fault);
}

#[test]
fn a_machine_and_a_gpu_without_a_fault_are_chosen() {
    let survey = Survey { machine: machine(), gpus: [(8, 0), (8, 9), (9, 0), (12, 0)].map(|c| gpu(0, c)).to_vec() };
    assert!(survey.fault().is_none());
    assert!(survey.gpus.iter().all(|gpu| survey.fault_of(gpu).is_none()));
    assert_eq!(survey.choose(Name::First).unwrap().capability, (8, 0));
    assert_eq!(survey.choose(Name::Index(2)).unwrap().capability, (9, 0));
}

#[test]
fn a_build_without_kernels_says_how_to_build_them() {
    machine_tells(&Machine { runtime: None, ..machine() }, &["no CUDA compiler", "scripts/install-cuda-compiler"]);
}

#[test]
fn a_machine_without_a_driver_says_so() {
    machine_tells(&Machine { driver: None, ..machine() }, &["libcuda.so was not found", "install the NVIDIA driver"]);
}

#[test]
fn an_old_driver_is_told_with_what_it_knows_and_what_is_needed() {
    let old = Machine { driver: Some(12080), ..machine() };
    machine_tells(&old, &["knows CUDA 12.8", "needs CUDA 13", "580 or newer"]);
    let older = Machine { runtime: Some(12090), driver: Some(11040), ..machine() };
    machine_tells(&older, &["knows CUDA 11.4", "needs CUDA 12.8", "570 or newer"]);
    // Of the build's major version, but without what is called.
    let first = Machine { runtime: Some(12090), driver: Some(12040), ..machine() };
    machine_tells(&first, &["knows CUDA 12.4", "needs CUDA 12.8", "570 or newer"]);
}

#[test]
fn a_driver_of_the_builds_major_version_or_a_later_one_will_do() {
    for (runtime, driver) in [(13020, 13000), (12090, 12080), (12000, 13010)] {
        let machine = Machine { runtime: Some(runtime), driver: Some(driver), ..machine() };
        let machine = Machine { cublaslt: Some(driver as usize * 10), ..machine };
        assert!(machine.fault().is_none(), "{machine:?}");
    }
}

#[test]
fn a_driver_that_does_not_start_says_why_and_what_helps() {
    let failure = |code| Failure { doing: "starting the CUDA driver", code, said: "it is broken".to_string() };
    let causes = [
        (CUresult::CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
        (CUresult::CUDA_ERROR_STUB_LIBRARY, "stubs"),
        (CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "restart the machine"),
        (CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, "cuda-compat"),
        (CUresult::CUDA_ERROR_SYSTEM_NOT_READY, "nvidia-fabricmanager"),
        (CUresult::CUDA_ERROR_UNKNOWN, "nvidia-uvm"),
        // One without advice of its own.
        (CUresult::CUDA_ERROR_NOT_PERMITTED, "nvidia-smi"),
    ];
    for (code, helps) in causes {
        // Even the version could not be asked for, or everything before the GPUs could.
        for driver in [None, Some(13000)] {
            let broken = Machine { driver, failure: Some(failure(code)), ..machine() };
            machine_tells(&broken, &["starting the CUDA driver: it is broken", &format!("{code:?}"), helps]);
        }
    }
}

#[test]
fn a_missing_cublaslt_is_told_with_the_name_of_the_file() {
    let missing = Machine { cublaslt: None, ..machine() };
    machine_tells(&missing, &["cuBLASLt", "`pip install nvidia-cublas`", "`libcublasLt.so.13`", "LD_LIBRARY_PATH"]);
    let of_12 = Machine { runtime: Some(12080), driver: Some(12080), cublaslt: None, ..machine() };
    machine_tells(&of_12, &["`pip install nvidia-cublas-cu12`", "`libcublasLt.so.12`"]);
}

#[test]
fn a_cublaslt_that_does_not_fit_the_driver_is_told() {
    machine_tells(&Machine { cublaslt: Some(110_900), ..machine() }, &["cuBLASLt 11.9.0 is too old"]);
    let new = Machine { runtime: Some(12080), driver: Some(12080), cublaslt: Some(130_102), ..machine() };
    machine_tells(&new, &["cuBLASLt 13.1.2 is too new", "knows CUDA 12.8"]);
}

#[test]
fn a_driver_that_knows_no_gpu_says_so() {
    let survey = Survey { machine: machine(), gpus: Vec::new() };
    tells(&survey.choose(Name::First).unwrap_err().report(), &["knows no GPU", "CUDA_VISIBLE_DEVICES"]);
}

#[test]
fn a_gpu_before_ampere_is_told_with_its_capability() {
    gpu_tells(&gpu(0, (7, 5)), &machine(), &["capability 7.5", "need 8.0", "`--device cuda:N`"]);
}

#[test]
fn a_gpu_closed_to_computing_is_told() {
    gpu_tells(&Gpu { prohibited: true, ..gpu(0, (9, 0)) }, &machine(), &["Prohibited", "nvidia-smi -c DEFAULT"]);
}

#[test]
fn a_gpu_newer_than_cublaslt_is_told() {
    let machine = Machine { cublaslt: Some(120_605), ..machine() };
    gpu_tells(&gpu(0, (10, 0)), &machine, &["12.8 or newer"]);
    assert!(gpu(0, (9, 0)).fault(&machine).is_none());
}

#[test]
fn a_gpu_with_too_little_memory_or_too_little_left_is_told() {
    let small = Gpu { total_bytes: LEAST_BYTES - 1, ..gpu(0, (8, 6)) };
    gpu_tells(&small, &machine(), &["has 2.00 GB of memory", "at least 2.0 GB"]);
    let gpu = gpu(0, (8, 6));
    assert!(gpu.fault_of_free(LEAST_BYTES).is_none());
    let full = gpu.fault_of_free(310_000_000).unwrap().report();
    tells(&full, &["`cuda:0`", "has free 0.31 GB", "`nvidia-smi`", "`--device cuda:N`"]);
}

#[test]
fn the_first_gpu_is_the_first_that_can_be_used() {
    let survey = Survey { machine: machine(), gpus: vec![gpu(0, (7, 0)), gpu(1, (8, 9)), gpu(2, (9, 0))] };
    assert_eq!(survey.choose(Name::First).unwrap().index, 1);
    // One that is asked for is not changed for another.
    tells(&survey.choose(Name::Index(0)).unwrap_err().report(), &["`cuda:0`", "capability 7.0"]);
}

#[test]
fn every_gpus_reason_is_told_when_none_can_be_used() {
    let closed = Gpu { prohibited: true, ..gpu(1, (9, 0)) };
    let survey = Survey { machine: machine(), gpus: vec![gpu(0, (7, 0)), closed] };
    let parts = ["none of the 2 GPUs", "`cuda:0`", "capability 7.0", "`cuda:1`", "Prohibited"];
    tells(&survey.choose(Name::First).unwrap_err().report(), &parts);
}

#[test]
fn a_number_without_a_gpu_is_told_with_those_there_are() {
    let survey = Survey { machine: machine(), gpus: vec![gpu(0, (8, 0)), gpu(1, (9, 0))] };
    let report = survey.choose(Name::Index(2)).unwrap_err().report();
    tells(&report, &["there is no `cuda:2`", "`cuda:0` (NVIDIA (8, 0))", "`cuda:1` (NVIDIA (9, 0))"]);
}

#[test]
fn a_survey_of_this_machine_opens_nothing_and_agrees_with_what_is_missing() {
    let survey = engine::cuda::survey();
    let missing = engine::cuda::missing().map(|error| error.report());
    assert_eq!(survey.choose(Name::First).err().map(|error| error.report()), missing);
    if let Some(missing) = missing {
        assert_eq!(engine::cuda::device().err().unwrap().report(), missing);
        assert!(engine::cuda::open(0).is_err());
    }
}
