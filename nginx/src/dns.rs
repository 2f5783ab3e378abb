//! Names resolved by nginx's resolver, as a future.

use core::cell::{Cell, RefCell};
use core::ffi::CStr;
use core::ptr;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::net::IpAddr;

use nginx_sys::{
    ngx_int_t, ngx_resolve_name, ngx_resolve_name_done, ngx_resolve_start, ngx_resolver_create,
    ngx_resolver_ctx_t, ngx_resolver_strerror, ngx_resolver_t, ngx_str_t, NGX_OK,
};
use ngx::http::{HttpModuleLocationConf as _, NgxHttpCoreModule};

use crate::address::socket_addr;
use crate::conf::{Conf, ConfError};
use crate::string::str_of;
use crate::timer::msec;

/// A set of name servers, as in nginx's `resolver` directive.
#[derive(Clone, Copy, Debug)]
pub struct Resolver(ptr::NonNull<ngx_resolver_t>);

/// Reason why a name could not be resolved.
#[derive(Clone, Debug)]
pub struct DnsError(pub String);

struct Query {
    /// Null once nginx has released the query.
    ctx: Cell<*mut ngx_resolver_ctx_t>,
    answer: RefCell<Option<Result<Vec<IpAddr>, DnsError>>>,
    waker: RefCell<Option<Waker>>,
}

impl Resolver {
    /// Wraps `resolver`. Returns `None` for null, and for the resolver without servers that nginx
    /// makes where none is configured.
    ///
    /// # Safety
    ///
    /// `resolver` is null, or lives as long as the configuration.
    pub(crate) unsafe fn from_ptr(resolver: *mut ngx_resolver_t) -> Option<Self> {
        let resolver = ptr::NonNull::new(resolver)?;
        // SAFETY: the caller's contract.
        let servers = unsafe { resolver.as_ref() }.connections.nelts;
        (servers != 0).then_some(Self(resolver))
    }

    /// Makes a resolver of these name servers, in the syntax of the `resolver` directive.
    pub fn new(cf: &mut Conf<'_>, servers: &[String]) -> Result<Self, ConfError> {
        let mut names: Vec<ngx_str_t> = servers.iter().map(|s| str_of(s.as_bytes())).collect();
        // SAFETY: nginx copies what it keeps of the names; the resolver dies with the cycle.
        unsafe {
            let resolver = ngx_resolver_create(cf.as_ptr(), names.as_mut_ptr(), names.len());
            Self::from_ptr(resolver).ok_or(ConfError::Logged)
        }
    }

    /// Returns the addresses of `name`. nginx caches them for their TTL.
    pub async fn resolve(self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, DnsError> {
        let failed = || DnsError("no memory".into());
        let query = Box::new(Query {
            ctx: Cell::new(ptr::null_mut()),
            answer: RefCell::new(None),
            waker: RefCell::new(None),
        });
        // SAFETY: the resolver lives as long as the configuration, which outlives the worker's
        // tasks. `query` is boxed, and Drop below ends the query before the box goes. `name` is
        // read during the call only (ngx_resolve_name_locked() copies it).
        unsafe {
            let ctx = ngx_resolve_start(self.0.as_ptr(), ptr::null_mut());
            // NGX_NO_RESOLVER is -1; from_ptr() excludes it, but it must never be written to.
            if ctx.is_null() || ctx as isize == -1 {
                return Err(failed());
            }
            (*ctx).name = str_of(name.as_bytes());
            (*ctx).handler = Some(answered);
            (*ctx).data = ptr::from_ref::<Query>(&query).cast_mut().cast();
            (*ctx).timeout = msec(timeout);
            (*ctx).set_cancelable(1);
            query.ctx.set(ctx);
            if ngx_resolve_name(ctx) != NGX_OK as ngx_int_t {
                // nginx freed the ctx.
                query.ctx.set(ptr::null_mut());
                return Err(failed());
            }
        }
        core::future::poll_fn(|cx| match query.answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                *query.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

impl Conf<'_> {
    /// Returns the `resolver` in force at the level that is being merged, if it has servers.
    pub fn resolver(&mut self) -> Option<Resolver> {
        // SAFETY: inside http {}; nginx's core merged its own configuration of this level before
        // this module's.
        unsafe { Resolver::from_ptr(NgxHttpCoreModule::location_conf(&*self.as_ptr())?.resolver) }
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        let ctx = self.ctx.replace(ptr::null_mut());
        if !ctx.is_null() {
            // SAFETY: the query is still nginx's, which forgets and frees it.
            unsafe { ngx_resolve_name_done(ctx) };
        }
    }
}

extern "C" fn answered(ctx: *mut ngx_resolver_ctx_t) {
    // SAFETY: `data` is the Query that started this and that is alive while its ctx is set.
    let query = unsafe { &*(*ctx).data.cast::<Query>() };
    // SAFETY: nginx passes the state and the addresses of the answer, and expects to be told
    // when they are no longer needed.
    let answer = unsafe {
        let answer = if (*ctx).state == NGX_OK as ngx_int_t {
            let addresses = (0..(*ctx).naddrs).filter_map(|i| {
                let address = &*(*ctx).addrs.add(i);
                socket_addr(address.sockaddr, address.socklen)
            });
            Ok(addresses.map(|address| address.ip()).collect())
        } else {
            let reason = CStr::from_ptr(ngx_resolver_strerror((*ctx).state).cast());
            Err(DnsError(reason.to_string_lossy().into_owned()))
        };
        query.ctx.set(ptr::null_mut());
        ngx_resolve_name_done(ctx);
        answer
    };
    *query.answer.borrow_mut() = Some(answer);
    let waker = query.waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}
