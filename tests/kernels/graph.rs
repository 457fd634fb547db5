//! Captured graphs on the emulated device: nothing runs until it is launched, and a replay sees the data of then.

use std::ffi::{CString, c_char, c_void};
use std::rc::Rc;

use engine::device::bindings::engine_dtype::{ENGINE_BF16, ENGINE_F32 as F32};
use engine::device::bindings::engine_status::{self, *};
use engine::device::bindings::*;
use engine::launch;

use crate::buffer::{Buffer, device};

unsafe extern "C" {
    fn engine_emulator_test(name: *const c_char, fault: u32, out: *mut f32, input: *const c_void) -> engine_status;
}

struct Graph(*mut engine_emulator_graph);

impl Graph {
    /// What `work` launches.
    fn capture(work: impl FnOnce()) -> Self {
        // SAFETY: the capture is this thread's, and ends below.
        unsafe { engine_emulator_capture_begin() };
        work();
        // SAFETY: it began above.
        Self(unsafe { engine_emulator_capture_end() })
    }

    fn launch(&self) -> engine_status {
        // SAFETY: the graph lives, and so does what its launches use (the tests see to it).
        unsafe { engine_emulator_graph_launch(self.0) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody uses it after this.
        unsafe { engine_emulator_graph_free(self.0) }
    }
}

/// Keeps a call to `work` in the capture.
fn capture_call(work: impl FnMut() -> engine_status + 'static) {
    type Work = Box<dyn FnMut() -> engine_status>;
    unsafe extern "C" fn run(data: *mut c_void) -> engine_status {
        // SAFETY: the box made below, which nobody else uses meanwhile.
        unsafe { (*data.cast::<Work>())() }
    }
    unsafe extern "C" fn release(data: *mut c_void) {
        // SAFETY: the box made below, released once.
        drop(unsafe { Box::from_raw(data.cast::<Work>()) });
    }
    let data: Box<Work> = Box::new(Box::new(work));
    // SAFETY: within a capture; both functions take the box.
    unsafe { engine_emulator_capture_call(Some(run), Some(release), Box::into_raw(data).cast()) };
}

fn test_kernel(name: &str, fault: u32, out: *mut f32, input: *const f32) -> engine_status {
    let name = CString::new(name).unwrap();
    // SAFETY: arrays of 64 elements; a fault stays in the guard bands.
    unsafe { engine_emulator_test(name.as_ptr(), fault, out, input.cast()) }
}

/// h (2, 3) = scale * weight[ids]
fn embedding(h: &mut Buffer<f32>, weight: &Buffer<f32>, ids: &Buffer<u32>, scale: f64) {
    let (device, n, d, stream) = (device(), 2, 3, std::ptr::null_mut());
    // SAFETY: arrays of these shapes.
    unsafe {
        let (h, weight, ids) = (h.as_mut_ptr().cast(), weight.as_ptr().cast(), ids.as_ptr());
        launch!(device.driver(), embedding_forward { n, d }(h, weight, ids, n, d, scale, F32, stream)).unwrap();
    }
}

#[test]
fn what_is_captured_runs_at_every_launch_with_the_data_of_then() {
    let weight = Buffer::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let mut ids = Buffer::from_slice(&[1_u32, 0]).unwrap();
    let mut h = Buffer::<f32>::new(6).unwrap();
    let graph = Graph::capture(|| embedding(&mut h, &weight, &ids, 2.0));
    assert!(h.as_slice().iter().all(|x| x.is_nan()), "nothing runs while it is captured");
    assert_eq!(graph.launch(), ENGINE_OK);
    assert_eq!(h.as_slice(), [8.0, 10.0, 12.0, 2.0, 4.0, 6.0]);
    ids.as_mut_slice().copy_from_slice(&[0, 0]);
    assert_eq!(graph.launch(), ENGINE_OK);
    assert_eq!(h.as_slice(), [2.0, 4.0, 6.0, 2.0, 4.0, 6.0]);
    embedding(&mut h, &weight, &ids, 1.0);
    assert_eq!(h.as_slice(), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0], "after the capture launches run at once");
}

#[test]
fn a_struct_is_kept_as_it_was_when_it_was_captured() {
    let qkv = Buffer::from_slice(&[3.0_f32, 4.0, 5.0, 6.0, 7.0, 8.0]).unwrap();
    let (norm, cos, sin) = (
        Buffer::from_slice(&[0.0f32; 2]).unwrap(),
        Buffer::from_slice(&[1.0_f32]).unwrap(),
        Buffer::from_slice(&[0.0_f32]).unwrap(),
    );
    let positions = Buffer::from_slice(&[0_u32]).unwrap();
    let mut out = [2; 3].map(|len| Buffer::<f32>::new(len).unwrap());
    let [q, k, v] = out.each_mut().map(|x| x.as_mut_ptr().cast());
    let mut rope = Box::new(engine_rope {
        q_norm: norm.as_ptr().cast(),
        k_norm: norm.as_ptr().cast(),
        cos: cos.as_ptr().cast(),
        sin: sin.as_ptr().cast(),
        positions: positions.as_ptr(),
        slots: std::ptr::null(),
        n: 1,
        eps: 0.0,
        heads: engine_heads { query: 1, kv: 1, dim: 2 },
    });
    let mut sampling = Box::new(engine_sampling { temperature: 1.0, top_k: 1, top_p: 1.0 });
    let uniforms = Buffer::from_slice(&[0.9_f32]).unwrap();
    let mut token = Buffer::<u32>::new(1).unwrap();
    let (device, tokens, stream) = (device(), token.as_mut_ptr(), std::ptr::null_mut());
    let graph = Graph::capture(|| {
        let (n, r, v_size) = (1, 1, 6);
        // SAFETY: arrays of the shapes that engine.h asks for.
        unsafe {
            launch!(device.driver(), rope_forward { n }(q, k, v, qkv.as_ptr().cast(), &*rope, F32, stream)).unwrap();
            let (logits, uniforms) = (qkv.as_ptr().cast(), uniforms.as_ptr().cast());
            launch!(
                device.driver(),
                sample { r }(tokens, std::ptr::null_mut(), logits, uniforms, &*sampling, r, v_size, F32, stream)
            )
            .unwrap();
        }
    });
    rope.n = 1000;
    rope.positions = std::ptr::null();
    sampling.temperature = f32::NAN;
    drop((rope, sampling));
    assert_eq!(graph.launch(), ENGINE_OK);
    assert_eq!(out[2].as_slice(), [7.0, 8.0]);
    assert_eq!(token.as_slice(), [5]);
}

#[test]
fn calls_keep_their_place_among_the_launches_and_are_dropped_once() {
    let input = Buffer::from_slice(&[1.0_f32; 64]).unwrap();
    let (mut first, mut second) = (Buffer::<f32>::new(64).unwrap(), Buffer::<f32>::new(64).unwrap());
    let (a, b, source) = (first.as_mut_ptr(), second.as_mut_ptr(), input.as_ptr());
    let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
    let sink = seen.clone();
    let graph = Graph::capture(|| {
        assert_eq!(test_kernel("sum", 0, a, source), ENGINE_OK);
        capture_call(move || {
            // SAFETY: both arrays outlive the graph, and no launch is in progress.
            let (a, b) = unsafe { (*a, *b) };
            sink.borrow_mut().push((a, b.is_nan()));
            ENGINE_OK
        });
        assert_eq!(test_kernel("sum", 0, b, a), ENGINE_OK);
    });
    assert!(seen.borrow().is_empty(), "a call does not run while it is captured");
    assert_eq!(graph.launch(), ENGINE_OK);
    assert_eq!(*seen.borrow(), [(64.0, true)], "after the first launch, before the second");
    assert_eq!(second.as_slice(), [64.0 * 64.0; 64]);
    assert_eq!(graph.launch(), ENGINE_OK);
    assert_eq!(seen.borrow().len(), 2);
    assert_eq!(Rc::strong_count(&seen), 2);
    drop(graph);
    assert_eq!(Rc::strong_count(&seen), 1, "dropped with the graph");
}

#[test]
fn a_capture_that_is_given_up_drops_what_it_kept() {
    let alive = Rc::new(());
    let kept = alive.clone();
    // SAFETY: captures of this thread.
    unsafe { engine_emulator_capture_begin() };
    capture_call(move || {
        let _alive = &kept;
        ENGINE_OK
    });
    assert_eq!(Rc::strong_count(&alive), 2);
    let graph = Graph::capture(|| {});
    assert_eq!(Rc::strong_count(&alive), 1);
    assert_eq!(graph.launch(), ENGINE_OK, "an empty graph does nothing");
}

#[test]
fn a_fault_in_a_replay_names_the_kernel_and_ends_it() {
    let input = Buffer::from_slice(&[1.0_f32; 64]).unwrap();
    let mut out = Buffer::<f32>::new(64).unwrap();
    let mut after = Buffer::<f32>::new(64).unwrap();
    let graph = Graph::capture(|| {
        let source = input.as_ptr();
        assert_eq!(test_kernel("reverse", 0, out.as_mut_ptr(), source), ENGINE_OK);
        assert_eq!(test_kernel("reverse", 1, out.as_mut_ptr(), source), ENGINE_OK, "faults show when it runs");
        assert_eq!(test_kernel("sum", 0, after.as_mut_ptr(), source), ENGINE_OK);
    });
    assert_eq!(graph.launch(), ENGINE_RACE);
    let message = device().driver().kernels().check(ENGINE_RACE, "the step").unwrap_err().to_string();
    assert!(message.contains("reverse_kernel") && message.contains("race"), "{message}");
    assert!(after.as_slice().iter().all(|x| x.is_nan()), "what comes after does not run");
}

#[test]
fn a_call_that_fails_ends_the_replay() {
    let mut out = Buffer::<f32>::new(64).unwrap();
    let input = Buffer::from_slice(&[1.0_f32; 64]).unwrap();
    let graph = Graph::capture(|| {
        capture_call(|| ENGINE_LAUNCH_FAILED);
        assert_eq!(test_kernel("sum", 0, out.as_mut_ptr(), input.as_ptr()), ENGINE_OK);
    });
    assert_eq!(graph.launch(), ENGINE_LAUNCH_FAILED);
    assert!(out.as_slice().iter().all(|x| x.is_nan()));
}

#[test]
fn a_launch_that_no_gpu_takes_fails_while_it_is_captured() {
    // More heads than a grid has blocks in its second dimension.
    let (device, s) = (device(), 1);
    let heads = engine_heads { query: 65_536, kv: 65_536, dim: 16 };
    // SAFETY: null pointers and zeros are values of it.
    let mask = engine_attention { n: 1, s: 1, heads, dtype: ENGINE_BF16, ..unsafe { std::mem::zeroed() } };
    let null = std::ptr::null_mut();
    let mut status = Ok(());
    let graph = Graph::capture(|| {
        // SAFETY: no kernel runs.
        status =
            unsafe { launch!(device.driver(), attention_forward { s }(null, null, null, null, null, &mask, null)) };
    });
    drop(graph);
    assert!(status.unwrap_err().to_string().contains("a grid of (1, 131072, 1)"));
}
