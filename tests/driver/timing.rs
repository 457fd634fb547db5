//! Algorithms of products: the fastest is taken, what is there stays right meanwhile, and the choice is kept.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use engine::device::driver::{Operand, Product};
use engine::device::{DType, Device, Tensor};

use crate::abi::Algorithm;
use crate::cuda::choices::{Choices, File};
use crate::cuda::{Settings, Survey};
use crate::machine::{Gpu, USUAL, faults, ran, set_algorithms, set_version, survey};

/// A column times a row: many elements, little work.
const LARGE: [usize; 3] = [512, 600, 1];

/// `c = a b`, or `+=`, of ones and with c of twos; gives an element of c, of which all must be alike.
fn multiply(device: &Device, [m, n, k]: [usize; 3], accumulate: bool) -> f32 {
    let ones = |len| Tensor::from_slice(device, &[len], &vec![1.0f32; len]);
    let (a, b, mut c) = (ones(m * k), ones(k * n), Tensor::from_slice(device, &[m * n], &vec![2.0f32; m * n]));
    queue(device, [m, n, k], accumulate, &a, &b, &mut c);
    let c = c.download::<f32>().unwrap();
    assert!(c.iter().all(|x| *x == c[0]), "{:?}", &c[..8]);
    c[0]
}

fn queue(device: &Device, [m, n, k]: [usize; 3], accumulate: bool, a: &Tensor, b: &Tensor, c: &mut Tensor) {
    let (a, b) = (Operand::new(a.address(), k), Operand::new(b.address(), n));
    let (dtype, c_dtype) = (DType::F32, DType::F32);
    let c = c.address_mut().unwrap();
    // SAFETY: as large as it says.
    unsafe { device.driver().product(&Product { c, a, b, m, n, k, dtype, c_dtype, accumulate }) }.unwrap();
}

/// Algorithms of these numbers that take so many microseconds.
fn found(list: &[(u32, u64)]) {
    let algorithm = |&(id, microseconds): &(u32, u64)| {
        let nanoseconds = 1000 * microseconds;
        Algorithm { id, workspace: u64::MAX, nanoseconds, listed: true, runs: true }
    };
    set_algorithms(&list.iter().map(algorithm).collect::<Vec<_>>());
}

/// The algorithm of the last product; how many ran since the last time.
fn last() -> (u32, usize) {
    let ran = ran();
    (*ran.last().unwrap(), ran.len())
}

fn kept_in(folder: &Path) -> Settings {
    Settings { folder: Some(folder.to_owned()), ..USUAL }
}

#[test]
fn the_fastest_is_taken_and_stays() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    found(&[(10, 20), (11, 30), (12, 10), (13, 40), (14, 20), (15, 20), (16, 20), (17, 20), (18, 1)]);
    assert_eq!(multiply(&device, LARGE, false), 1.0);
    let all = ran();
    // One round to load the code, five that count, and the product itself. Eight are asked for.
    assert_eq!((all.len(), all.last()), (8 * 6 + 1, Some(&12)));
    assert_eq!(all[..8], [10, 11, 12, 13, 14, 15, 16, 17]);
    assert_eq!(multiply(&device, LARGE, false), 1.0);
    assert_eq!(ran(), [12]);
}

#[test]
fn the_librarys_order_stands_where_times_differ_little() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    found(&[(0, 1000), (1, 980), (2, 2000)]);
    multiply(&device, LARGE, false);
    assert_eq!(last().0, 0);
}

#[test]
fn large_products_are_run_less_often() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    found(&[(0, 40_000), (1, 30_000)]);
    multiply(&device, LARGE, false);
    assert_eq!(last(), (1, 2 * 2 + 1));
}

#[test]
fn what_is_added_to_is_added_to_once() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    assert_eq!(multiply(&device, LARGE, true), 3.0);
    // The second of the usual ones; the third is listed as one that cannot be used.
    let all = ran();
    assert!(all.last() == Some(&1) && all.len() == 3 * 6 + 1 && !all.contains(&2), "{all:?}");
}

#[test]
fn where_there_is_no_memory_to_add_to_the_first_is_taken() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let of = |len| Tensor::from_slice(&device, &[len], &vec![1.0f32; len]);
    let (a, b, mut c) = (of(512), of(600), of(512 * 600));
    let used = 80_000_000_000 - device.driver().free_bytes().unwrap() as usize;
    gpu.set_total(used + 1000);
    queue(&device, LARGE, true, &a, &b, &mut c);
    assert!(c.download::<f32>().unwrap().iter().all(|x| *x == 2.0));
    assert_eq!(ran(), [0]);
    let all = faults();
    assert!(all.len() == 1 && all[0].contains("cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY: 1228800 bytes"), "{all:?}");
}

#[test]
fn small_products_are_not_timed_nor_are_any_where_the_environment_says_so() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    assert_eq!(multiply(&device, [64, 64, 64], false), 64.0);
    assert_eq!(ran(), [0]);
    let folder = tempfile::tempdir().unwrap();
    let device = gpu.open_with(Settings { timed_products: false, ..kept_in(folder.path()) }).unwrap();
    assert_eq!(multiply(&device, LARGE, false), 1.0);
    assert_eq!(ran(), [0]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_algorithm_that_does_not_run_is_left_out() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let algorithm = |id, nanoseconds, runs| Algorithm { id, workspace: 0, nanoseconds, listed: true, runs };
    set_algorithms(&[algorithm(0, 9000, false), algorithm(1, 8000, true), algorithm(2, 100, false)]);
    assert_eq!(multiply(&device, LARGE, false), 1.0);
    assert_eq!(last(), (1, 7));
    assert_eq!(faults().len(), 2);
}

#[test]
fn within_a_capture_nothing_is_timed() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let of = |value: f32, len| Tensor::from_slice(&device, &[len], &vec![value; len]);
    let (a, b, mut c) = (of(1.0, 512), of(5.0, 600), of(0.0, 512 * 600));
    device.driver().begin_capture().unwrap();
    queue(&device, LARGE, false, &a, &b, &mut c);
    let graph = device.driver().end_capture().unwrap();
    assert_eq!(ran(), [0]);
    graph.launch().unwrap();
    assert!(c.download::<f32>().unwrap().iter().all(|x| *x == 5.0));
}

#[test]
fn a_choice_is_kept_for_the_next_start_and_for_this_machine_alone() {
    let gpu = Gpu::new();
    let folder = tempfile::tempdir().unwrap();
    let chooses = |survey: &Survey, what| {
        let device = gpu.open_on(survey, kept_in(&folder.path().join("of/the/engine"))).unwrap();
        assert_eq!(multiply(&device, LARGE, false), 1.0);
        assert_eq!(last(), what);
        multiply(&device, LARGE, true);
        ran();
    };
    let usual = survey();
    found(&[(0, 20), (1, 10), (2, 30)]);
    chooses(&usual, (1, 19));
    // By now another one would be the fastest.
    found(&[(0, 20), (1, 40), (2, 10)]);
    chooses(&usual, (1, 1));
    let mut other = usual.clone();
    other.machine.driver = Some(13_010);
    chooses(&other, (2, 19));
    let mut other = usual.clone();
    other.gpus[gpu.index].capability = (9, 1);
    chooses(&other, (2, 19));
    let mut other = usual.clone();
    other.gpus[gpu.index].name = "Another".into();
    chooses(&other, (2, 19));
    set_version(130_001);
    chooses(&survey(), (2, 19));
    chooses(&survey(), (2, 1)); // kept beside that of the other version
    set_version(130_000);
    chooses(&usual, (1, 1));
}

/// As when two processes time the same product at the same time.
#[test]
fn the_first_choice_that_is_kept_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::new(folder.path(), "a GPU, a driver");
    let [first, second] = [7, 8].map(|id| crate::cuda::choices::Algorithm { words: [id; 8], workspace: 3 });
    file.keep("x y", first);
    file.keep("x y", second);
    file.keep("z", second);
    assert_eq!((file.get("x y"), file.get("z"), file.get("x")), (Some(first), Some(second), None));
    assert_eq!(file.path().file_name().unwrap(), "a-gpu--a-driver.products");
    // Nothing else is left there.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn files_that_are_of_no_use_are_as_if_they_were_not_there() {
    let gpu = Gpu::new();
    let folder = tempfile::tempdir().unwrap();
    let open = || gpu.open_with(kept_in(folder.path())).unwrap();
    multiply(&open(), LARGE, false);
    let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    for damaged in [&whole[..whole.len() - 1], &whole[..40], &flipped, b"engine products 1\n", &[0xff; 300], b""] {
        fs::write(&path, damaged).unwrap();
        ran();
        assert_eq!(multiply(&open(), LARGE, false), 1.0);
        assert_eq!(last().1, 19);
        assert!(fs::read(&path).unwrap() == whole);
    }
    // A folder where the file should be, and a file where the folder should be.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    multiply(&open(), LARGE, false);
    assert_eq!(last(), (1, 19));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    multiply(&gpu.open_with(kept_in(&file)).unwrap(), LARGE, false);
    assert_eq!(last(), (1, 19));
}

/// The words of an algorithm of the stand-in's that takes so much scratch.
fn with_workspace(mut words: [u64; 8], bytes: u64) -> [u64; 8] {
    (words[3], words[7]) = (bytes, 0);
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    words[7] = hasher.finish();
    words
}

#[test]
fn a_choice_that_the_library_refuses_or_that_takes_too_much_scratch_is_made_anew() {
    let gpu = Gpu::new();
    let folder = tempfile::tempdir().unwrap();
    multiply(&gpu.open_with(kept_in(folder.path())).unwrap(), LARGE, false);
    ran();
    let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let platform = survey().machine.platform(&survey().gpus[gpu.index]);
    let kept = Choices::parse(&fs::read_to_string(&path).unwrap(), &platform).unwrap();
    let mut broken = kept.clone();
    broken.0.values_mut().for_each(|algorithm| algorithm.words[3] += 1);
    let mut greedy = kept.clone();
    greedy.0.values_mut().for_each(|algorithm| algorithm.words = with_workspace(algorithm.words, 1 << 30));
    for choices in [broken, greedy] {
        assert_ne!(choices, kept);
        fs::write(&path, choices.text(&platform)).unwrap();
        assert_eq!(multiply(&gpu.open_with(kept_in(folder.path())).unwrap(), LARGE, false), 1.0);
        assert_eq!(last(), (1, 19));
    }
}

#[test]
fn a_device_chooses_as_another_did() {
    let [gpu, other] = [Gpu::new(), Gpu::new()];
    let first = gpu.open().unwrap();
    found(&[(0, 20), (1, 10)]);
    multiply(&first, LARGE, false);
    multiply(&first, [4; 3], false);
    let choices = first.driver().choices().unwrap();
    assert_eq!(choices.lines().count(), 2 + 1 + 1, "{choices}");
    found(&[(0, 10), (1, 20)]);
    let second = gpu.open().unwrap();
    multiply(&second, LARGE, false);
    assert_eq!(last().0, 0);
    assert!(second.driver().choose(&choices));
    assert_eq!(second.driver().choices().unwrap(), choices);
    multiply(&second, LARGE, false);
    assert_eq!(ran(), [1]);
    // What it does not know it chooses itself.
    multiply(&second, [512, 601, 1], false);
    assert_eq!(last(), (0, 13));
    assert!(!second.driver().choose(&choices[1..]));
    // Its name is another.
    assert!(!other.open().unwrap().driver().choose(&choices));
    ran();
}

#[test]
fn after_many_choices_the_librarys_first_is_taken() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    multiply(&device, LARGE, false);
    let platform = survey().machine.platform(&survey().gpus[gpu.index]);
    let known = *Choices::parse(&device.driver().choices().unwrap(), &platform).unwrap().0.values().next().unwrap();
    let choices = |n: usize| Choices((0..n).map(|i| (format!("product {i}"), known)).collect()).text(&platform);
    assert!(device.driver().choose(&choices(255)));
    ran();
    multiply(&device, LARGE, false);
    assert_eq!(last(), (1, 19));
    assert_eq!(device.driver().choices().unwrap().lines().count(), 2 + 256 + 1);
    multiply(&device, [512, 601, 1], false);
    assert_eq!(ran(), [0]);
    assert_eq!(device.driver().choices().unwrap().lines().count(), 2 + 256 + 1);
}
