//! A response under way: a handle of its request, and its end.
//!
//! After a 101, nginx copies bytes between client and server with `c->send`, and runs no filter.
//! To end such a response between two frames, the module puts a function of its own in that place,
//! which counts frames and sends what the original function would send. It is taken away with the
//! request, whose pool goes before the connection does.

use core::cell::{Cell, OnceCell, RefCell};
use core::ptr;
use std::rc::{Rc, Weak};

use nginx_sys::{
    ngx_connection_t, ngx_handle_read_event, ngx_handle_write_event, ngx_http_finalize_request,
    ngx_http_request_t, ngx_http_run_posted_requests, ngx_int_t, u_char, NGX_AGAIN, NGX_ERROR,
    NGX_HTTP_CLOSE, NGX_OK,
};

use crate::request::Request;

/// Function in `c->send`.
pub(crate) type SendFn = unsafe extern "C" fn(*mut ngx_connection_t, *mut u_char, usize) -> isize;

/// Frames in the bytes that a server sends over an upgraded connection.
pub trait Frames {
    /// Moves over bytes that were sent.
    fn pass(&mut self, bytes: &[u8]);
    /// Returns true if the next byte begins a frame.
    fn is_between(&self) -> bool;
    /// Number of the first `bytes` that belong to the frame under way.
    fn rest_of_frame(&self, bytes: &[u8]) -> usize;
    /// The last frame.
    fn last_frame(&self) -> &'static [u8];
}

/// The handle of a request, if the module asked for one.
#[derive(Default)]
pub(crate) struct OpenCell(OnceCell<Rc<Opened>>);

struct Opened {
    /// Null once the request is gone.
    request: Cell<*mut ngx_http_request_t>,
    tunnel: OnceCell<Tunnel>,
}

/// An upgraded connection.
struct Tunnel {
    c: *mut ngx_connection_t,
    original: SendFn,
    frames: RefCell<Box<dyn Frames>>,
    /// Size of a send that found no room. TLS demands that the next one has these bytes again.
    repeat: Cell<usize>,
    /// The last frame follows as soon as the frame under way has ended.
    is_ending: Cell<bool>,
    /// Bytes of the last frame that were sent.
    said: Cell<usize>,
}

/// State of the end of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A frame is under way.
    InFrame,
    /// The last frame was sent. The client may answer it.
    LastFrameSent,
    /// The request is gone.
    Gone,
}

/// Weak handle of a request whose response may be open.
#[derive(Clone, Debug)]
pub struct Open(Weak<Opened>);

impl core::fmt::Debug for Opened {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

impl OpenCell {
    /// Implements [`Request::open`] for the main request `r`.
    pub(crate) fn open(&self, r: *mut ngx_http_request_t) -> Open {
        let new = || Rc::new(Opened { request: Cell::new(r), tunnel: OnceCell::new() });
        Open(Rc::downgrade(self.0.get_or_init(new)))
    }

    /// Forgets the request, and gives `c->send` back. Called when the pool of the request is
    /// destroyed.
    pub(crate) fn close(&self) {
        let Some(opened) = self.0.get() else { return };
        opened.request.set(ptr::null_mut());
        if let Some(tunnel) = opened.tunnel.get() {
            // SAFETY: nginx destroys the pool of a request before its connection.
            unsafe { (*tunnel.c).send = Some(tunnel.original) };
        }
    }

    /// Implements [`Request::count_frames`]: from now on `own` is `c->send`, and calls
    /// [`Self::send`].
    ///
    /// # Safety
    ///
    /// `r` is the main request of this cell, in HTTP/1; `own` is called with its connection only.
    pub(crate) unsafe fn count_frames(
        &self,
        r: *mut ngx_http_request_t,
        own: SendFn,
        frames: Box<dyn Frames>,
    ) {
        let Some(opened) = self.0.get() else { return };
        // SAFETY: the caller's contract.
        unsafe {
            let c = (*r).connection;
            let Some(original) = (*c).send else { return };
            if opened.tunnel.get().is_some() {
                return;
            }
            let _ = opened.tunnel.set(Tunnel {
                c,
                original,
                frames: RefCell::new(frames),
                repeat: Cell::new(0),
                is_ending: Cell::new(false),
                said: Cell::new(0),
            });
            (*c).send = Some(own);
        }
    }

    /// Sends `size` bytes at `bytes`, as `c->send` does.
    ///
    /// # Safety
    ///
    /// As for `c->send` of the connection of this cell.
    pub(crate) unsafe fn send(&self, bytes: *mut u_char, size: usize) -> isize {
        match self.0.get().and_then(|opened| opened.tunnel.get()) {
            // SAFETY: the caller's contract.
            Some(tunnel) => unsafe { tunnel.send(bytes, size) },
            None => NGX_ERROR as isize,
        }
    }
}

impl Tunnel {
    /// Sends `size` bytes at `bytes`; while the response ends, only those of the frame under way.
    ///
    /// nginx takes a short result for a connection without room, which will tell when it has some.
    /// So the bytes that had to be repeated are not the only ones that are sent.
    ///
    /// # Safety
    ///
    /// As for `c->send`.
    unsafe fn send(&self, bytes: *mut u_char, size: usize) -> isize {
        // SAFETY: the caller passes `size` readable bytes.
        let data = unsafe { core::slice::from_raw_parts(bytes, size) };
        let mut sent = 0;
        while let Some(rest) = data.get(sent..).filter(|rest| !rest.is_empty()) {
            let most = match self.repeat.get() {
                0 if !self.is_ending.get() => rest.len(),
                0 => self.frames.borrow().rest_of_frame(rest),
                repeat => repeat.min(rest.len()),
            };
            if most == 0 || self.said.get() > 0 {
                // nginx keeps the bytes, until the request ends.
                break;
            }
            // SAFETY: the original function of this connection, with bytes of the caller's.
            let n = unsafe { (self.original)(self.c, bytes.add(sent), most) };
            self.repeat.set(if n == NGX_AGAIN as isize { most } else { 0 });
            let Some(passed) = usize::try_from(n).ok().and_then(|n| rest.get(..n)) else {
                return if sent == 0 { n } else { sent as isize };
            };
            self.frames.borrow_mut().pass(passed);
            sent += passed.len();
            if self.is_ending.get() {
                // SAFETY: the caller's contract.
                unsafe { self.say_last_frame() };
            }
            if passed.len() < most {
                break;
            }
        }
        match sent {
            0 => NGX_AGAIN as isize,
            sent => sent as isize,
        }
    }

    /// Sends the last frame, or what is left of it, if the stream is between frames, the connection
    /// takes bytes, and nothing that was begun waits.
    ///
    /// # Safety
    ///
    /// The connection is open.
    unsafe fn say_last_frame(&self) {
        let last_frame = self.frames.borrow().last_frame();
        let is_begun = self.said.get() > 0;
        if !is_begun && (!self.frames.borrow().is_between() || self.repeat.get() > 0) {
            return;
        }
        let rest = last_frame.get(self.said.get()..).unwrap_or_default();
        // SAFETY: the connection is open; `rest` is static and only read.
        unsafe {
            let write = (*self.c).write;
            if rest.is_empty() || (*self.c).buffered() != 0 {
                return;
            }
            if (*write).ready() != 0 {
                let n = (self.original)(self.c, rest.as_ptr().cast_mut(), rest.len());
                self.said.set(self.said.get() + usize::try_from(n).unwrap_or(0));
            }
            ngx_handle_write_event(write, 0);
        }
    }

    fn is_said(&self) -> bool {
        self.said.get() == self.frames.borrow().last_frame().len()
    }
}

impl Open {
    /// Calls `body` with the request, if it is there.
    ///
    /// Call it from the event loop only: no callback of the request may be running.
    pub fn with<R>(&self, body: impl FnOnce(&mut Request) -> R) -> Option<R> {
        let opened = self.0.upgrade()?;
        let r = opened.request.get();
        if r.is_null() {
            return None;
        }
        // SAFETY: the pool of the request would have closed the cell, so the request is alive; no
        // other code borrows it, by the caller's contract.
        Some(body(unsafe { Request::from_ptr(r) }))
    }

    /// Ends the response, as [`Self::with`] is called. With frames, the last one is sent before,
    /// when the frame under way has ended: call it again until the request is gone. Bytes of the
    /// client are dropped from now on.
    pub fn end(&self) -> Ending {
        let Some(opened) = self.0.upgrade() else { return Ending::Gone };
        let r = opened.request.get();
        if r.is_null() {
            return Ending::Gone;
        }
        let Some(tunnel) = opened.tunnel.get() else { return self.close() };
        tunnel.is_ending.set(true);
        // SAFETY: as above; the connection lives as long as the request.
        unsafe {
            (*r).read_event_handler = Some(drop_bytes);
            tunnel.say_last_frame();
        }
        if tunnel.is_said() {
            Ending::LastFrameSent
        } else {
            Ending::InFrame
        }
    }

    /// Closes the connection of the request, or its stream of HTTP/2, as [`Self::with`] is called.
    pub fn close(&self) -> Ending {
        let Some(opened) = self.0.upgrade() else { return Ending::Gone };
        let r = opened.request.get();
        if !r.is_null() {
            // SAFETY: as above. The request may be gone afterwards; its connection is still memory
            // of nginx's, as in ngx_http_request_handler().
            unsafe {
                let c = (*r).connection;
                terminate(r);
                ngx_http_run_posted_requests(c);
            }
        }
        Ending::Gone
    }
}

/// Ends a request in the middle of its response. nginx frees it with its posted requests.
///
/// # Safety
///
/// `r` is alive, and none of its callbacks uses it afterwards.
unsafe fn terminate(r: *mut ngx_http_request_t) {
    // SAFETY: the caller's contract. In its cleanup nginx's upstream ends the request by itself.
    // Counted once more, the request is still there when the cleanup returns;
    // ngx_http_terminate_handler() frees it whatever the count is.
    unsafe {
        let main = (*r).main;
        if (*main).write_event_handler.is_some() {
            (*main).set_count((*main).count() + 1);
        }
        ngx_http_finalize_request(r, NGX_HTTP_CLOSE as ngx_int_t);
    }
}

/// Reads and drops the bytes of a client whose response ends. So they do not reach the server, and
/// the kernel does not answer them with a reset, which could overtake the last frame.
extern "C" fn drop_bytes(r: *mut ngx_http_request_t) {
    let mut bytes = [0; 4096];
    // SAFETY: nginx calls the handler with a valid request and an open connection; recv() writes at
    // most as many bytes as there are.
    unsafe {
        let c = (*r).connection;
        let read = (*c).read;
        while (*read).ready() != 0 {
            let Some(recv) = (*c).recv else { break };
            let n = recv(c, bytes.as_mut_ptr(), bytes.len());
            if n == NGX_AGAIN as isize {
                break;
            }
            if n <= 0 {
                return terminate(r);
            }
        }
        if ngx_handle_read_event(read, 0) != NGX_OK as ngx_int_t {
            terminate(r);
        }
    }
}
