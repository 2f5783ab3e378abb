//! Configuration: directives, their arguments, and errors with file and line.

use core::cell::RefCell;
use core::ffi::{c_char, c_void, CStr};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use nginx_sys::{
    ngx_command_t, ngx_conf_full_name, ngx_conf_parse, ngx_conf_t, ngx_http_conf_ctx_t,
    ngx_parse_size, ngx_parse_time, ngx_parse_url, ngx_pnalloc, ngx_str_t, ngx_uint_t, ngx_url_t,
};
use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ngx_conf_log_error;

use crate::address::socket_addr;
use crate::configuration::{Configuration, Scope};
use crate::log::{Level, Log};
use crate::panic::guard;
use crate::string::{str_of, Printable};

/// Error of a directive.
#[derive(Debug)]
pub enum ConfError {
    /// The directive was already given at this level: nginx's `"x" directive is duplicate`.
    Duplicate,
    /// A message about the line being read.
    Message(String),
    /// A message about a line that was read before.
    At(SourceLocation, String),
    /// nginx has logged the error.
    Logged,
}

impl ConfError {
    /// Makes an error with this message. nginx appends the file and line being read.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }
}

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceLocation {
    file: Rc<str>,
    line: usize,
}

impl SourceLocation {
    pub(crate) fn new(file: &[u8], line: usize) -> Self {
        thread_local! {
            // One line after the other is of the same file, and a configuration may have many.
            static LAST: RefCell<Rc<str>> = RefCell::new("".into());
        }
        let file = Printable(file).to_string();
        let file = LAST.with_borrow_mut(|last| {
            if **last != *file {
                *last = file.into();
            }
            Rc::clone(last)
        });
        Self { file, line }
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Context of a directive.
#[derive(Clone, Copy, Debug)]
pub enum Context {
    /// `http`.
    Http,
    /// `http`, `server`, `location` and `limit_except`.
    Everywhere,
    /// `http`, `server` and `location`.
    HttpServerLocation,
    /// `http` and `server`.
    HttpServer,
    /// `location`.
    Location,
}

/// Number of arguments of a directive.
#[derive(Clone, Copy, Debug)]
pub enum Arguments {
    /// None.
    None,
    /// One.
    One,
    /// One or two.
    OneOrTwo,
    /// Two.
    Two,
    /// At least one.
    OneOrMore,
}

/// A directive.
pub trait Directive {
    /// Level of configuration that the directive fills.
    type Scope: Scope;
    /// Name of the directive.
    const NAME: &'static CStr;
    /// Contexts in which the directive is allowed.
    const CONTEXT: Context;
    /// Number of arguments.
    const ARGUMENTS: Arguments = Arguments::One;
    /// Whether a block follows the arguments.
    const BLOCK: bool = false;

    /// Reads one occurrence of the directive.
    fn set(cf: &mut Conf<'_>, conf: &mut <Self::Scope as Scope>::Conf) -> Result<(), ConfError>;
}

/// Reason why a host has no addresses.
#[derive(Debug)]
pub struct AddressError(pub String);

/// The configuration being read (`ngx_conf_t`).
///
/// Holds a raw pointer, because nginx passes the same one to the callbacks of a nested block.
#[derive(Debug)]
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

    /// Returns the log of configuration time.
    pub fn log(&self) -> Log {
        // SAFETY: the log lives as long as the cycle that is being built.
        unsafe { Log::from_ptr((*self.0).log) }
    }

    /// Returns the directive's name and arguments.
    pub fn arguments(&self) -> Vec<String> {
        // SAFETY: `args` holds ngx_str_t, filled by ngx_conf_read_token().
        let args = unsafe { (*(*self.0).args).as_slice::<ngx_str_t>() };
        args.iter().map(|arg| String::from_utf8_lossy(arg.as_bytes()).into_owned()).collect()
    }

    /// Returns the module's configuration of `http {}`, from a directive of a lower level.
    pub fn main<C: Configuration>(&mut self) -> &mut C::Main {
        // SAFETY: inside http {}, whose entry of this module create_main_conf made. It is not
        // among the objects that directives of lower levels fill.
        unsafe {
            let ctx = &*(*self.0).ctx.cast::<ngx_http_conf_ctx_t>();
            &mut *(*ctx.main_conf.add(C::index().get())).cast::<C::Main>()
        }
    }

    /// Returns the line being read.
    pub fn place(&self) -> SourceLocation {
        // SAFETY: `conf_file` is null or points to the open file.
        match unsafe { (*self.0).conf_file.as_ref() } {
            Some(file) => SourceLocation::new(file.file.name.as_bytes(), file.line),
            None => SourceLocation::new(b"command line", 0),
        }
    }

    /// Logs a warning with the line being read.
    pub fn warn(&mut self, message: fmt::Arguments<'_>) {
        let cf = self.0;
        ngx_conf_log_error!(Level::Warn as ngx_uint_t, cf, "{message}");
    }

    /// Logs a warning about a line that was read before.
    pub fn warn_at(&self, place: &SourceLocation, message: fmt::Arguments<'_>) {
        self.log().write(Level::Warn, format_args!("{message} in {place}"));
    }

    /// Logs the error of `result` at level emerg. Returns true if there is none.
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

    /// Reads the block that follows, and calls `line` with the arguments of each line in it.
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

    /// Parses a time such as `500ms`, `5s`, `1m`.
    pub fn parse_time(value: &str) -> Option<Duration> {
        let mut value = str_of(value.as_bytes());
        // SAFETY: reads the bytes of `value`.
        let msec = unsafe { ngx_parse_time(&mut value, 0) };
        u64::try_from(msec).ok().map(Duration::from_millis)
    }

    /// Parses a size such as `64k`, `1m`.
    pub fn parse_size(value: &str) -> Option<usize> {
        let mut value = str_of(value.as_bytes());
        // SAFETY: reads the bytes of `value`.
        usize::try_from(unsafe { ngx_parse_size(&mut value) }).ok()
    }

    /// Resolves `path` relative to nginx's configuration directory.
    pub fn full_path(&mut self, path: &str) -> Result<PathBuf, ConfError> {
        let mut name = str_of(path.as_bytes());
        // SAFETY: `cycle` is being built; the name is replaced by one in the cycle's pool.
        let rc = unsafe { ngx_conf_full_name((*self.0).cycle, &mut name, 1) };
        if rc != nginx_sys::NGX_OK as isize {
            return Err(ConfError::Logged);
        }
        Ok(PathBuf::from(String::from_utf8_lossy(name.as_bytes()).into_owned()))
    }

    /// Copies `text` into the pool of the configuration, with a zero at its end.
    pub(crate) fn keep(&mut self, text: &str) -> Result<ngx_str_t, ConfError> {
        // SAFETY: the pool lives as long as the cycle that is being built. The copy has one byte
        // more than the text.
        unsafe {
            let data = ngx_pnalloc((*self.0).pool, text.len() + 1).cast::<u8>();
            if data.is_null() {
                return Err(ConfError::new("no memory"));
            }
            data.copy_from_nonoverlapping(text.as_ptr(), text.len());
            data.add(text.len()).write(0);
            Ok(ngx_str_t { len: text.len(), data })
        }
    }

    /// Returns the addresses of `host` by the system's resolver (`getaddrinfo()`), which reads
    /// /etc/hosts too.
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
                    socket_addr(addr.sockaddr, addr.socklen)
                })
                .collect())
        }
    }
}
