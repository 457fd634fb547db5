//! Devices by name.

use engine::cuda;
use engine::device::DType;
use engine::error::Kind;
use engine::session::{DeviceName, devices};

#[test]
fn names_are_read_and_shown() {
    for (name, device) in [
        ("auto", DeviceName::Auto),
        ("cpu", DeviceName::Cpu),
        ("cuda", DeviceName::Cuda(cuda::Name::First)),
        ("cuda:3", DeviceName::Cuda(cuda::Name::Index(3))),
        ("emulated", DeviceName::Emulated),
    ] {
        assert_eq!(name.parse::<DeviceName>().unwrap(), device);
        assert_eq!(device.to_string(), name);
    }
    for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
        let error = name.parse::<DeviceName>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn auto_says_why_it_took_the_cpu() {
    let opened = devices::open(DeviceName::Auto, None).unwrap();
    match cuda::missing() {
        Some(missing) => {
            assert!(opened.device.driver().is_host() && opened.dtype == DType::F32);
            assert_eq!(opened.fallback.unwrap().to_string(), missing.to_string());
        }
        None => assert!(!opened.device.driver().is_host() && opened.fallback.is_none()),
    }
    let cpu = devices::open(DeviceName::Cpu, None).unwrap();
    assert!(cpu.fallback.is_none(), "who asks for the CPU needs no reason");
    assert_eq!(devices::open(DeviceName::Cpu, Some(DType::Bf16)).unwrap().dtype, DType::Bf16);
}
