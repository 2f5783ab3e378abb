//! Variables.

use core::cell::{Cell, RefCell};
use core::ffi::CStr;

use nginx_sys::{
    ngx_cycle_t, ngx_hash_key_t, ngx_http_add_variable, ngx_http_core_main_conf_t,
    ngx_http_get_variable_pt, ngx_http_request_t, ngx_http_variable_t, ngx_http_variable_value_t,
    ngx_int_t, ngx_str_t, ngx_uint_t, NGX_ERROR, NGX_HTTP_VAR_NOCACHEABLE, NGX_HTTP_VAR_PREFIX,
    NGX_OK,
};
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::conf::{Conf, ConfError};
use crate::request::Request;
use crate::string::{bytes, copy_to, str_of};

/// nginx's `ngx_http_get_variable_pt`.
type Handler = unsafe extern "C" fn(
    *mut ngx_http_request_t,
    *mut ngx_http_variable_value_t,
    usize,
) -> ngx_int_t;

/// Value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// It has none; an access log shows `-`.
    NotFound,
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes.
    Static(&'static str),
}

/// Whether what nginx keeps of a variable is forgotten when the verdict changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It has nothing to do with verdicts.
    Never,
    /// It is made from a verdict.
    Always,
    /// It may be made from a verdict, or set by a directive.
    IfPossible,
}

thread_local! {
    /// Indices, among the variables of this configuration, of those that a verdict changes.
    static INDICES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// The same of variables of other modules.
    static OTHERS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// nginx's own handler of the variable that is overridden.
    static WRAPPED: Cell<ngx_http_get_variable_pt> = const { Cell::new(None) };
}

impl Conf<'_> {
    /// Defines `$name`; with `prefix`, every variable whose name begins so.
    pub(crate) fn define_variable(
        &mut self,
        name: &'static str,
        prefix: bool,
        handler: Handler,
    ) -> Result<(), ConfError> {
        let mut name = str_of(name.as_bytes());
        let prefix = if prefix { NGX_HTTP_VAR_PREFIX } else { 0 };
        let flags = (NGX_HTTP_VAR_NOCACHEABLE | prefix) as ngx_uint_t;
        // SAFETY: `cf` is inside http {}; nginx copies the name into a variable that lives as
        // long as the configuration, and that we let the handler point to.
        unsafe {
            let variable = ngx_http_add_variable(self.as_ptr(), &mut name, flags);
            if variable.is_null() {
                return Err(ConfError::Logged);
            }
            (*variable).get_handler = Some(handler);
            // For a prefix, nginx itself puts the name that was asked for in its place.
            (*variable).data = (&raw const (*variable).name) as usize;
        }
        Ok(())
    }

    /// Whether the configuration names `$name` anywhere; after it was read.
    pub fn uses_variable(&self, name: &str) -> bool {
        // SAFETY: `cf` is inside http {}.
        let core = unsafe { NgxHttpCoreModule::main_conf(&*self.as_const_ptr()) };
        // SAFETY: an array of ngx_http_variable_t.
        let used = core.map(|core| unsafe { core.variables.as_slice::<ngx_http_variable_t>() });
        // SAFETY: names live as long as the configuration.
        let is_it = |v: &ngx_http_variable_t| unsafe { bytes(&v.name) } == name.as_bytes();
        used.unwrap_or_default().iter().any(is_it)
    }

    /// Gives nginx's own variable `name` the module's value where the module has one.
    pub(crate) fn replace_variable(
        &mut self,
        name: &'static CStr,
        handler: Handler,
    ) -> Result<(), ConfError> {
        // SAFETY: `cf` is inside http {}; nginx's core added its variables, as keys with an
        // ngx_http_variable_t each, before ours is asked (ngx_http_variables_add_core_vars()).
        unsafe {
            let core = NgxHttpCoreModule::main_conf_mut(&*self.as_ptr());
            let keys = core.and_then(|core| core.variables_keys.as_ref());
            let keys = keys.map(|k| k.keys.as_slice::<ngx_hash_key_t>()).unwrap_or_default();
            let key = keys.iter().find(|key| bytes(&key.key) == name.to_bytes());
            let variable = key.and_then(|key| key.value.cast::<ngx_http_variable_t>().as_mut());
            let Some(variable) = variable else {
                return Err(ConfError::new(format!("no variable {name:?}")));
            };
            WRAPPED.set(variable.get_handler);
            variable.get_handler = Some(handler);
            // nginx's handler of such a variable takes no data.
            variable.data = (&raw const variable.name) as usize;
        }
        Ok(())
    }
}

/// Returns the name of the variable whose handler nginx passed `data`.
///
/// # Safety
///
/// `data` is of a variable that [`Conf::define_variable`] or [`Conf::replace_variable`] set up.
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

/// Finds the module's variables among those that the configuration uses, for [`forget`].
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
        // Where no other module defined the variable, nginx points to its name itself.
        let of_prefix = v.data == (&raw const v.name) as usize;
        // SAFETY: names live as long as the configuration.
        match renewal(unsafe { bytes(&v.name) }, of_prefix) {
            Renewal::Never => {}
            Renewal::Always => own.push(index),
            // `set` puts a number there, and its variables cannot be made anew; nor need those of
            // nginx that do so: they are of the client's request.
            Renewal::IfPossible if v.data < LEAST_POINTER => {}
            Renewal::IfPossible => others.push(index),
        }
    }
    INDICES.set(own);
    OTHERS.set(others);
}

/// Linux maps nothing below (vm.mmap_min_addr).
const LEAST_POINTER: usize = 65536;

impl Request {
    /// Has nginx evaluate the variables anew that [`crate::Module::renewal`] names, even where it
    /// would use the stored value, as access logs do.
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

/// Evaluates a variable of another module's anew, if it was; what cannot be made again, as what
/// `auth_request_set` set, stays.
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
