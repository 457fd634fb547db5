//! Captures, and graphs of what was captured.

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus};

use crate::context::{Capture, Kind, current};
use crate::fault::{Fault, Outcome, answer, fault};

/// All flags that `cuGraphInstantiate` knows.
const KNOWN_FLAGS: u64 = 1 | 2 | 4 | 8;

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode) -> CUresult {
    answer("cuStreamBeginCapture_v2", || {
        let mut context = current()?;
        let stream = context.stream(stream as u64)?;
        if stream.capture.is_some() {
            return fault(CUresult::CUDA_ERROR_ILLEGAL_STATE, "the stream is being captured already");
        }
        let thread = std::thread::current().id();
        stream.capture = Some(Capture { nodes: Vec::new(), mode, thread, invalid: false });
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(stream: CUstream, status: *mut CUstreamCaptureStatus) -> CUresult {
    answer("cuStreamIsCapturing", || {
        let found = current()?.capture_status(stream as u64)?;
        // SAFETY: the caller's.
        unsafe { *status = found };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, made: *mut CUgraph) -> CUresult {
    answer("cuStreamEndCapture", || {
        let mut context = current()?;
        // SAFETY: the caller's.
        unsafe { *made = std::ptr::null_mut() };
        let Some(capture) = context.stream(stream as u64)?.capture.take() else {
            return fault(CUresult::CUDA_ERROR_ILLEGAL_STATE, "the stream is not being captured");
        };
        let relaxed = capture.mode == CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        if !relaxed && capture.thread != std::thread::current().id() {
            return fault(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began the capture");
        }
        if capture.invalid {
            return fault(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was broken before");
        }
        let handle = context.new_handle(Kind::Graph);
        context.graphs.insert(handle, capture.nodes);
        // SAFETY: as above.
        unsafe { *made = handle as CUgraph };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(made: *mut CUgraphExec, graph: CUgraph, flags: u64) -> CUresult {
    answer("cuGraphInstantiateWithFlags", || {
        let mut context = current()?;
        if flags & !KNOWN_FLAGS != 0 {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("flags {flags}"));
        }
        let nodes = found(context.graphs.get(&(graph as u64)), "graph")?.clone();
        let handle = context.new_handle(Kind::Executable);
        context.executables.insert(handle, nodes);
        // SAFETY: the caller's.
        unsafe { *made = handle as CUgraphExec };
        Ok(())
    })
}

fn found<T>(thing: Option<T>, what: &str) -> Outcome<T> {
    let why = || format!("this is no {what} of the GPU whose context is current, or was destroyed");
    thing.ok_or_else(|| Fault { code: CUresult::CUDA_ERROR_INVALID_HANDLE, why: why() })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(graph: CUgraphExec, stream: CUstream) -> CUresult {
    answer("cuGraphUpload", || {
        let mut context = current()?;
        found(context.executables.get(&(graph as u64)), "executable graph")?;
        context.require_not_captured(stream as u64)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(graph: CUgraphExec, stream: CUstream) -> CUresult {
    answer("cuGraphLaunch", || {
        let mut context = current()?;
        let nodes = found(context.executables.get(&(graph as u64)), "executable graph")?.clone();
        // A GPU would find out as it runs; that it would is known now.
        nodes.iter().try_for_each(|node| context.require_alive(node)).inspect_err(|f| context.broken = Some(f.code))?;
        nodes.into_iter().try_for_each(|node| context.push(stream as u64, node))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    answer("cuGraphDestroy", || found(current()?.graphs.remove(&(graph as u64)), "graph").map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(graph: CUgraphExec) -> CUresult {
    answer("cuGraphExecDestroy", || found(current()?.executables.remove(&(graph as u64)), "executable graph").map(drop))
}
