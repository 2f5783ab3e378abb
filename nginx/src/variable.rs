//! Variables of the configuration.

use core::cell::{Cell, RefCell};
use core::ffi::CStr;

use nginx_sys::{
    ngx_cycle_t, ngx_hash_key_t, ngx_http_add_variable, ngx_http_core_main_conf_t,
    ngx_http_get_variable_pt, ngx_http_request_t, ngx_http_variable_t, ngx_http_variable_value_t,
    ngx_int_t, ngx_str_t, ngx_uint_t, NGX_ERROR, NGX_HTTP_VAR_NOCACHEABLE, NGX_HTTP_VAR_PREFIX,
    NGX_HTTP_VAR_WEAK, NGX_OK,
};
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::conf::{Conf, ConfError};
use crate::request::Request;
use crate::string::{bytes, copy_to, str_of};

/// Type of a variable's handler (`ngx_http_get_variable_pt`).
type Handler = unsafe extern "C" fn(
    *mut ngx_http_request_t,
    *mut ngx_http_variable_value_t,
    usize,
) -> ngx_int_t;

/// Value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// No value. An access log shows `-`.
    NotFound,
    /// Bytes made for the request.
    Bytes(Vec<u8>),
    /// A constant text.
    Static(&'static str),
}

/// Value of a variable of nginx that the module may override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    /// nginx's own value.
    Original,
    /// The module's value in its place.
    Value(Value),
}

/// Whether [`Request::forget_variables`] drops the stored value of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Keeps the value. For variables that do not depend on the module.
    Never,
    /// Drops the value. For variables that the module makes.
    Always,
    /// Evaluates the variable again, and keeps the old value if that finds none. For variables of
    /// other modules that may depend on this one, or may be set by a directive.
    IfPossible,
}

thread_local! {
    /// Indices of the variables with [`Renewal::Always`], in this configuration.
    static INDICES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// Indices of the variables with [`Renewal::IfPossible`].
    static OTHERS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// nginx's own handler of the overridden variable.
    static WRAPPED: Cell<ngx_http_get_variable_pt> = const { Cell::new(None) };
}

impl Conf<'_> {
    /// Defines every variable whose name begins with `name`. For preconfiguration.
    pub(crate) fn define_prefix(
        &mut self,
        name: &'static str,
        handler: Handler,
    ) -> Result<(), ConfError> {
        self.add(name, NGX_HTTP_VAR_PREFIX, handler)
    }

    /// Defines `$name`, unless a directive of the configuration defines it, such as `map`. For
    /// postconfiguration: a variable that is defined earlier makes such a directive an error.
    ///
    /// A directive `set` defines no value of its own. Where it was not run, the handler gives the
    /// value.
    pub(crate) fn define_variable(
        &mut self,
        name: &'static str,
        handler: Handler,
    ) -> Result<(), ConfError> {
        // SAFETY: `cf` is inside http {}; nginx keeps the variables until the configuration is
        // complete, and this is the only reference to them.
        let Some(variable) = (unsafe { self.find_variable(name.as_bytes()) }) else {
            return self.add(name, 0, handler);
        };
        if variable.flags & NGX_HTTP_VAR_WEAK as ngx_uint_t != 0 {
            // A weak variable counts less than one of a prefix.
            variable.flags &= !(NGX_HTTP_VAR_WEAK as ngx_uint_t);
            variable.get_handler = Some(handler);
            variable.data = (&raw const variable.name) as usize;
        }
        Ok(())
    }

    /// Finds a variable that is defined, and not by a prefix.
    ///
    /// # Safety
    ///
    /// `cf` is inside http {}, and there is no other reference to the variable.
    unsafe fn find_variable(&mut self, name: &[u8]) -> Option<&mut ngx_http_variable_t> {
        // SAFETY: the caller's contract; the keys have an ngx_http_variable_t each
        // (ngx_http_variables_add_core_vars()).
        unsafe {
            let core = NgxHttpCoreModule::main_conf_mut(&*self.as_ptr())?;
            let keys = core.variables_keys.as_ref()?.keys.as_slice::<ngx_hash_key_t>();
            let key = keys.iter().find(|key| bytes(&key.key) == name)?;
            key.value.cast::<ngx_http_variable_t>().as_mut()
        }
    }

    fn add(&mut self, name: &'static str, flag: u32, handler: Handler) -> Result<(), ConfError> {
        let mut name = str_of(name.as_bytes());
        let flags = (NGX_HTTP_VAR_NOCACHEABLE | flag) as ngx_uint_t;
        // SAFETY: `cf` is inside http {}; nginx copies the name into a variable that lives as
        // long as the configuration, and that `data` points to.
        unsafe {
            let variable = ngx_http_add_variable(self.as_ptr(), &mut name, flags);
            if variable.is_null() {
                return Err(ConfError::Logged);
            }
            (*variable).get_handler = Some(handler);
            // For a prefix, nginx itself sets `data` to the full name.
            (*variable).data = (&raw const (*variable).name) as usize;
        }
        Ok(())
    }

    /// Whether the configuration uses `$name` anywhere. For postconfiguration.
    pub fn uses_variable(&self, name: &str) -> bool {
        self.uses(|used| used == name.as_bytes())
    }

    /// Whether the configuration uses a variable whose name begins with `prefix`. For
    /// postconfiguration.
    pub fn uses_prefix(&self, prefix: &str) -> bool {
        self.uses(|used| used.starts_with(prefix.as_bytes()))
    }

    fn uses(&self, is_it: impl Fn(&[u8]) -> bool) -> bool {
        self.used_variables().any(is_it)
    }

    /// Returns the names of the variables that the configuration uses anywhere. For
    /// postconfiguration.
    pub fn used_variables(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: `cf` is inside http {}.
        let core = unsafe { NgxHttpCoreModule::main_conf(&*self.as_const_ptr()) };
        // SAFETY: an array of ngx_http_variable_t.
        let used = core.map(|core| unsafe { core.variables.as_slice::<ngx_http_variable_t>() });
        // SAFETY: names live as long as the configuration.
        used.unwrap_or_default().iter().map(|variable| unsafe { bytes(&variable.name) })
    }

    /// Whether a directive of the configuration or another module defines `$name`. For
    /// postconfiguration.
    pub fn is_defined_elsewhere(&self, name: &[u8]) -> bool {
        // SAFETY: `cf` is inside http {}; each key has an ngx_http_variable_t. The module's own
        // variables have their names as data.
        unsafe {
            let core = NgxHttpCoreModule::main_conf(&*self.as_const_ptr());
            let Some(keys) = core.and_then(|core| core.variables_keys.as_ref()) else {
                return false;
            };
            let mut keys = keys.keys.as_slice::<ngx_hash_key_t>().iter();
            let key = keys.find(|key| bytes(&key.key) == name);
            let variable = key.and_then(|key| key.value.cast::<ngx_http_variable_t>().as_ref());
            variable.is_some_and(|v| v.data != (&raw const v.name) as usize)
        }
    }

    /// Replaces the handler of nginx's own variable `name`. The first handler is kept for
    /// [`write_original`].
    pub(crate) fn replace_variable(
        &mut self,
        name: &'static CStr,
        handler: Handler,
    ) -> Result<(), ConfError> {
        // SAFETY: `cf` is inside http {}; nginx's core added its variables before this module is
        // called, and this is the only reference to them.
        let Some(variable) = (unsafe { self.find_variable(name.to_bytes()) }) else {
            return Err(ConfError::new(format!("no variable {name:?}")));
        };
        WRAPPED.set(variable.get_handler);
        variable.get_handler = Some(handler);
        // nginx's handler of such a variable takes no data.
        variable.data = (&raw const variable.name) as usize;
        Ok(())
    }
}

/// Returns the name of the variable whose handler nginx passed `data`.
///
/// # Safety
///
/// `data` is of a variable that [`Conf::define_prefix`], [`Conf::define_variable`] or [`Conf::replace_variable`] set up.
pub(crate) unsafe fn name<'a>(data: usize) -> &'a [u8] {
    // SAFETY: the caller's contract; `data` points to the name, which lives as long as the
    // configuration, or as the request for a variable of a prefix.
    unsafe { bytes(&*(data as *const ngx_str_t)) }
}

/// Writes the value that nginx's own handler of the replaced variable returns.
///
/// # Safety
///
/// `r` and `value` are valid.
pub(crate) unsafe fn write_original(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
) -> ngx_int_t {
    // SAFETY: the caller's contract.
    unsafe {
        match WRAPPED.get() {
            Some(wrapped) => wrapped(r, value, 0),
            None => write(r, value, Value::NotFound),
        }
    }
}

/// Writes `found` to `value`.
///
/// # Safety
///
/// `r` and `value` are valid.
pub(crate) unsafe fn write(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    found: Value,
) -> ngx_int_t {
    // SAFETY: the caller's contract; the value's bytes are static or in the request's pool.
    unsafe {
        let data = match found {
            Value::NotFound => {
                (*value).set_not_found(1);
                (*value).set_valid(0);
                return NGX_OK as ngx_int_t;
            }
            Value::Static(s) => str_of(s.as_bytes()),
            Value::Bytes(b) => match copy_to((*r).pool, &b) {
                Ok(data) => data,
                Err(_) => return NGX_ERROR as ngx_int_t,
            },
        };
        (*value).data = data.data;
        (*value).set_len(data.len as u32);
        (*value).set_valid(1);
        (*value).set_not_found(0);
    }
    NGX_OK as ngx_int_t
}

/// Notes which variables of the configuration [`forget`] drops, as `renewal` says for each name.
///
/// # Safety
///
/// `cycle` is the running cycle.
pub(crate) unsafe fn index_variables(
    cycle: &ngx_cycle_t,
    renewal: impl Fn(&[u8], bool) -> Renewal,
) {
    let core: Option<&ngx_http_core_main_conf_t> = NgxHttpCoreModule::main_conf(cycle);
    // SAFETY: an array of ngx_http_variable_t, complete once the configuration was read.
    let used = core.map(|core| unsafe { core.variables.as_slice::<ngx_http_variable_t>() });
    let names = used.unwrap_or_default().iter().enumerate();
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for (index, v) in names {
        // nginx sets `data` to the name of a variable that it found by a prefix.
        let of_prefix = v.data == (&raw const v.name) as usize;
        // SAFETY: names live as long as the configuration.
        match renewal(unsafe { bytes(&v.name) }, of_prefix) {
            Renewal::Never => {}
            // `data` is a number for variables of `set`, which cannot be evaluated again. It is one
            // for some variables of nginx too, which depend on the client's request only.
            _ if v.data < LEAST_POINTER => {}
            Renewal::Always => own.push(index),
            Renewal::IfPossible => others.push(index),
        }
    }
    INDICES.set(own);
    OTHERS.set(others);
}

/// Lowest address that Linux maps (vm.mmap_min_addr).
const LEAST_POINTER: usize = 65536;

impl Request {
    /// Drops stored values of variables, as [`crate::Module::renewal`] says. nginx evaluates them
    /// again, even where it would use the stored value, as in access logs.
    pub fn forget_variables(&mut self) {
        // SAFETY: a valid request.
        forget(unsafe { &mut *self.as_ptr() });
    }
}

fn forget(r: &mut ngx_http_request_t) {
    if r.variables.is_null() {
        return;
    }
    INDICES.with_borrow(|indices| {
        for &index in indices {
            // SAFETY: nginx allocates one value per variable of the configuration, subrequests
            // share them, and the indices are below that number.
            unsafe {
                let value = r.variables.add(index);
                (*value).set_valid(0);
                (*value).set_not_found(0);
            }
        }
    });
    OTHERS.with_borrow(|indices| {
        for &index in indices {
            // SAFETY: as above; the request is valid.
            unsafe { renew(r, index) };
        }
    });
}

/// Evaluates a variable again, if it has a value. The old value stays if there is no new one, as
/// for variables of `auth_request_set`.
///
/// # Safety
///
/// `r` is valid, and has a variable of that index.
unsafe fn renew(r: *mut ngx_http_request_t, index: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let value = (*r).variables.add(index);
        (*value).set_not_found(0);
        if (*value).valid() == 0 {
            return;
        }
        let before = *value;
        (*value).set_valid(0);
        let after = nginx_sys::ngx_http_get_indexed_variable(r, index);
        if after.is_null() || (*after).not_found() != 0 {
            *value = before;
        }
    }
}
