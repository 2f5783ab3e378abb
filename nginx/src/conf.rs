//! Configuration: directives, their arguments, and errors with file and line.

use core::ffi::{c_char, c_void, CStr};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;

use nginx_sys::{
    ngx_command_t, ngx_conf_full_name, ngx_conf_parse, ngx_conf_t, ngx_http_conf_ctx_t,
    ngx_parse_size, ngx_parse_time, ngx_parse_url, ngx_str_t, ngx_uint_t, ngx_url_t,
    NGX_CONF_1MORE, NGX_CONF_BLOCK, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE2,
    NGX_HTTP_LMT_CONF, NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleLocationConf as _, NgxHttpCoreModule};
use ngx::ngx_conf_log_error;

use crate::dns::Resolver;
use crate::log::{Level, Log, Printable};
use crate::module::{guard, Location, Main, Module};

/// Why a directive is refused.
#[derive(Debug)]
pub enum ConfError {
    /// It was already given at this level: nginx's `"x" directive is duplicate`.
    Duplicate,
    /// A sentence of its own.
    Message(String),
    /// The same, about a place that was read before.
    At(Place, String),
    /// nginx already logged it.
    Logged,
}

impl ConfError {
    /// An error with this message; nginx appends the file and line being read.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }
}

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: String,
    line: usize,
}

impl Place {
    pub(crate) fn new(file: &[u8], line: usize) -> Self {
        Self { file: Printable(file).to_string(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Where a directive may stand.
#[derive(Clone, Copy, Debug)]
pub enum Context {
    /// `http`.
    Http,
    /// `http`, `server`, `location` and `limit_except`.
    Everywhere,
    /// `http`, `server` and `location`.
    HttpServerLocation,
    /// `location`.
    Location,
}

/// How many arguments a directive takes.
#[derive(Clone, Copy, Debug)]
pub enum Arguments {
    /// None.
    None,
    /// One.
    One,
    /// One or two.
    OneOrTwo,
    /// At least one.
    OneOrMore,
}

/// Level of configuration that a directive fills.
pub trait Scope {
    /// Its configuration.
    type Conf;
    #[doc(hidden)]
    const OFFSET: usize;
}

impl<M: Module> Scope for Main<M> {
    type Conf = M::Main;
    const OFFSET: usize = nginx_sys::NGX_HTTP_MAIN_CONF_OFFSET;
}

impl<M: Module> Scope for Location<M> {
    type Conf = M::Location;
    const OFFSET: usize = nginx_sys::NGX_HTTP_LOC_CONF_OFFSET;
}

/// A directive.
pub trait Directive {
    /// Level it fills.
    type Scope: Scope;
    /// Its name.
    const NAME: &'static CStr;
    /// Where it may stand.
    const CONTEXT: Context;
    /// How many arguments it takes.
    const ARGUMENTS: Arguments = Arguments::One;
    /// Whether a block follows the arguments.
    const BLOCK: bool = false;

    /// Reads one occurrence of it.
    fn set(cf: &mut Conf<'_>, conf: &mut <Self::Scope as Scope>::Conf) -> Result<(), ConfError>;
}

/// The `ngx_command_t` of a [`Directive`].
pub trait Command {
    const COMMAND: ngx_command_t;
}

impl<D: Directive> Command for D {
    const COMMAND: ngx_command_t = ngx_command_t {
        name: ngx_str_t { len: D::NAME.count_bytes(), data: D::NAME.as_ptr().cast_mut().cast() },
        type_: (match D::CONTEXT {
            Context::Http => NGX_HTTP_MAIN_CONF,
            Context::HttpServerLocation => {
                NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF
            }
            Context::Location => NGX_HTTP_LOC_CONF,
            Context::Everywhere => {
                NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_HTTP_LMT_CONF
            }
        } | match D::ARGUMENTS {
            Arguments::None => NGX_CONF_NOARGS,
            Arguments::One => NGX_CONF_TAKE1,
            Arguments::OneOrTwo => NGX_CONF_TAKE1 | NGX_CONF_TAKE2,
            Arguments::OneOrMore => NGX_CONF_1MORE,
        } | if D::BLOCK { NGX_CONF_BLOCK } else { 0 }) as ngx_uint_t,
        set: Some(set::<D>),
        conf: D::Scope::OFFSET,
        offset: 0,
        post: core::ptr::null_mut(),
    };
}

extern "C" fn set<D: Directive>(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: nginx passes a valid `cf`, and for `conf` what the module created for the level
    // that the command's offset names.
    let (mut cf, conf) =
        unsafe { (Conf::from_ptr(cf), &mut *conf.cast::<<D::Scope as Scope>::Conf>()) };
    guard(cf.log(), NGX_CONF_ERROR, || match D::set(&mut cf, conf) {
        Err(ConfError::Duplicate) => c"is duplicate".as_ptr().cast_mut(),
        result => {
            if cf.report(result) {
                NGX_CONF_OK
            } else {
                NGX_CONF_ERROR
            }
        }
    })
}

/// Why a host has no addresses yet.
#[derive(Debug)]
pub struct AddressError(pub String);

/// `ngx_conf_t`: what is being read.
///
/// A raw pointer, because nginx hands the same one to the callbacks of a nested block.
pub struct Conf<'a>(*mut ngx_conf_t, PhantomData<&'a mut ngx_conf_t>);

impl Conf<'_> {
    /// # Safety
    ///
    /// `cf` is what nginx passed to the running callback.
    pub(crate) unsafe fn from_ptr<'a>(cf: *mut ngx_conf_t) -> Conf<'a> {
        Conf(cf, PhantomData)
    }

    pub(crate) fn as_const_ptr(&self) -> *const ngx_conf_t {
        self.0
    }

    pub(crate) fn as_ptr(&mut self) -> *mut ngx_conf_t {
        self.0
    }

    pub(crate) fn raw(&self) -> *const ngx_conf_t {
        self.0
    }

    /// The log of configuration time.
    pub fn log(&self) -> Log {
        // SAFETY: the log lives as long as the cycle that is being built.
        unsafe { Log::from_ptr((*self.0).log) }
    }

    /// The directive's name and arguments.
    pub fn arguments(&self) -> Vec<String> {
        // SAFETY: `args` holds ngx_str_t, filled by ngx_conf_read_token().
        let args = unsafe { (*(*self.0).args).as_slice::<ngx_str_t>() };
        args.iter().map(|arg| String::from_utf8_lossy(arg.as_bytes()).into_owned()).collect()
    }

    /// The module's configuration of `http {}`, from below.
    pub fn main<M: Module>(&mut self) -> &mut M::Main {
        // SAFETY: inside http {}, whose entry of ours create() made, and which is another object
        // than those that directives of lower levels fill.
        unsafe {
            let ctx = &*(*self.0).ctx.cast::<ngx_http_conf_ctx_t>();
            &mut *(*ctx.main_conf.add(M::cell().ctx_index())).cast::<M::Main>()
        }
    }

    /// The line being read.
    pub fn place(&self) -> Place {
        // SAFETY: `conf_file` is null or points to the open file.
        match unsafe { (*self.0).conf_file.as_ref() } {
            Some(file) => Place::new(file.file.name.as_bytes(), file.line),
            None => Place::new(b"command line", 0),
        }
    }

    /// A warning, with file and line.
    pub fn warn(&mut self, message: fmt::Arguments<'_>) {
        let cf = self.0;
        ngx_conf_log_error!(Level::Warn as ngx_uint_t, cf, "{message}");
    }

    /// A warning about a place that was read before.
    pub fn warn_at(&self, place: &Place, message: fmt::Arguments<'_>) {
        self.log().write(Level::Warn, format_args!("{message} in {place}"));
    }

    /// Logs the error of `result` at level emerg; true when there is none.
    pub(crate) fn report(&mut self, result: Result<(), ConfError>) -> bool {
        let cf = self.0;
        let Err(error) = result else { return true };
        match error {
            ConfError::Logged => {}
            ConfError::Duplicate => {
                ngx_conf_log_error!(Level::Emerg as ngx_uint_t, cf, "duplicate");
            }
            ConfError::Message(message) => {
                ngx_conf_log_error!(Level::Emerg as ngx_uint_t, cf, "{message}");
            }
            ConfError::At(place, message) => {
                self.log().write(Level::Emerg, format_args!("{message} in {place}"));
            }
        }
        false
    }

    /// Reads the block that follows; `line` is called with the arguments of each of its lines.
    pub fn block(
        &mut self,
        line: &mut dyn FnMut(&mut Conf<'_>) -> Result<(), ConfError>,
    ) -> Result<(), ConfError> {
        struct Lines<'a>(&'a mut dyn FnMut(&mut Conf<'_>) -> Result<(), ConfError>);

        extern "C" fn handle(
            cf: *mut ngx_conf_t,
            _command: *mut ngx_command_t,
            lines: *mut c_void,
        ) -> *mut c_char {
            // SAFETY: ngx_conf_parse() calls with its own `cf` and with `handler_conf`, which
            // points to the Lines on the stack of block() below.
            let (mut cf, lines) = unsafe { (Conf::from_ptr(cf), &mut *lines.cast::<Lines<'_>>()) };
            guard(cf.log(), NGX_CONF_ERROR, || {
                let result = (lines.0)(&mut cf);
                if cf.report(result) {
                    NGX_CONF_OK
                } else {
                    NGX_CONF_ERROR
                }
            })
        }

        let mut lines = Lines(line);
        // SAFETY: with no file name ngx_conf_parse() reads the block that was just opened, calls
        // `handle` for each line of it, and no more after it returned.
        let result = unsafe {
            let cf = self.0;
            let outer = ((*cf).handler, (*cf).handler_conf);
            (*cf).handler = Some(handle);
            (*cf).handler_conf = core::ptr::from_mut(&mut lines).cast();
            let result = ngx_conf_parse(cf, core::ptr::null_mut());
            ((*cf).handler, (*cf).handler_conf) = outer;
            result
        };
        if result == NGX_CONF_OK {
            Ok(())
        } else {
            Err(ConfError::Logged)
        }
    }

    /// A time such as `500ms`, `5s`, `1m`.
    pub fn parse_time(value: &str) -> Option<Duration> {
        let mut value = str_of(value.as_bytes());
        // SAFETY: reads the bytes of `value`.
        let msec = unsafe { ngx_parse_time(&mut value, 0) };
        u64::try_from(msec).ok().map(Duration::from_millis)
    }

    /// A size such as `64k`, `1m`.
    pub fn parse_size(value: &str) -> Option<usize> {
        let mut value = str_of(value.as_bytes());
        // SAFETY: reads the bytes of `value`.
        usize::try_from(unsafe { ngx_parse_size(&mut value) }).ok()
    }

    /// `path` relative to nginx's configuration directory.
    pub fn full_path(&mut self, path: &str) -> Result<PathBuf, ConfError> {
        let mut name = str_of(path.as_bytes());
        // SAFETY: `cycle` is being built; the name is replaced by one in the cycle's pool.
        let rc = unsafe { ngx_conf_full_name((*self.0).cycle, &mut name, 1) };
        if rc != nginx_sys::NGX_OK as isize {
            return Err(ConfError::Logged);
        }
        Ok(PathBuf::from(String::from_utf8_lossy(name.as_bytes()).into_owned()))
    }

    /// Addresses of `host` as the system knows them now (`getaddrinfo()`): /etc/hosts included.
    pub fn addresses(&mut self, host: &str, port: u16) -> Result<Vec<SocketAddr>, AddressError> {
        // A literal IPv6 address stands in brackets in an authority.
        let url = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // SAFETY: all zeroes is how nginx itself starts an ngx_url_t.
        let mut u: ngx_url_t = unsafe { core::mem::zeroed() };
        u.url = str_of(url.as_bytes());
        u.default_port = port;
        // SAFETY: `u` is initialised; results are allocated in the configuration's pool.
        unsafe {
            if ngx_parse_url((*self.0).pool, &mut u) != nginx_sys::NGX_OK as isize {
                let reason = if u.err.is_null() {
                    String::from("failed")
                } else {
                    CStr::from_ptr(u.err).to_string_lossy().into_owned()
                };
                return Err(AddressError(reason));
            }
            Ok((0..u.naddrs)
                .filter_map(|i| {
                    let addr = &*u.addrs.add(i);
                    crate::stream::socket_addr(addr.sockaddr, addr.socklen)
                })
                .collect())
        }
    }

    /// The `resolver` in force at the level that is being merged, when it has servers.
    pub fn resolver(&mut self) -> Option<Resolver> {
        // SAFETY: inside http {}; nginx's core merged its own configuration of this level before
        // ours.
        unsafe { Resolver::from_ptr(NgxHttpCoreModule::location_conf(&*self.0)?.resolver) }
    }
}

/// Borrows `bytes` for the duration of one call into nginx.
pub(crate) fn str_of(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}
