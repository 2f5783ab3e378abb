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
use crate::headers::{bytes, copy_to};
use crate::module::{guard, main_conf, Module};
use crate::request::Request;

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
    pub fn add_variable<M: Module>(
        &mut self,
        name: &'static str,
        prefix: bool,
    ) -> Result<(), ConfError> {
        let mut name = crate::conf::str_of(name.as_bytes());
        let prefix = if prefix { NGX_HTTP_VAR_PREFIX } else { 0 };
        let flags = (NGX_HTTP_VAR_NOCACHEABLE | prefix) as ngx_uint_t;
        // SAFETY: `cf` is inside http {}; nginx copies the name into a variable that lives as
        // long as the configuration, and that we let the handler point to.
        unsafe {
            let variable = ngx_http_add_variable(self.as_ptr(), &mut name, flags);
            if variable.is_null() {
                return Err(ConfError::Logged);
            }
            (*variable).get_handler = Some(get::<M>);
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
    pub fn override_variable<M: Module>(&mut self, name: &'static CStr) -> Result<(), ConfError> {
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
            variable.get_handler = Some(get_overridden::<M>);
            // nginx's handler of such a variable takes no data.
            variable.data = (&raw const variable.name) as usize;
        }
        Ok(())
    }
}

extern "C" fn get<M: Module>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a valid request and value; `data` points to the variable's name.
    unsafe {
        let request = Request::from_ptr(r);
        let name = bytes(&*(data as *const ngx_str_t));
        let found = guard(request.log(), Value::NotFound, || M::variable(request, name));
        (*value).set_no_cacheable(1);
        write(r, value, found)
    }
}

extern "C" fn get_overridden<M: Module>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    // SAFETY: as in get(); the wrapped handler is nginx's own.
    unsafe {
        let request = Request::from_ptr(r);
        let name = bytes(&*(data as *const ngx_str_t));
        match guard(request.log(), Value::NotFound, || M::override_variable(request, name)) {
            Value::NotFound => match WRAPPED.get() {
                Some(wrapped) => wrapped(r, value, 0),
                None => write(r, value, Value::NotFound),
            },
            found => write(r, value, found),
        }
    }
}

/// # Safety
///
/// `r` and `value` are valid.
unsafe fn write(
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
            Value::Static(s) => crate::conf::str_of(s.as_bytes()),
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
pub(crate) unsafe fn index_variables<M: Module>(cycle: &ngx_cycle_t) {
    let core: Option<&ngx_http_core_main_conf_t> = NgxHttpCoreModule::main_conf(cycle);
    // SAFETY: an array of ngx_http_variable_t, complete once the configuration was read.
    let used = core.map(|core| unsafe { core.variables.as_slice::<ngx_http_variable_t>() });
    let names = used.unwrap_or_default().iter().enumerate();
    // SAFETY: names live as long as the configuration.
    let main = unsafe { main_conf::<M>(cycle) };
    let Some(main) = main else { return };
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for (index, v) in names {
        // Where no other module defined the variable, nginx points to its name itself.
        let of_prefix = v.data == (&raw const v.name) as usize;
        // SAFETY: as above.
        match M::renewal(main, unsafe { bytes(&v.name) }, of_prefix) {
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

/// Has nginx evaluate those variables anew, even where it would use what it kept (as access
/// logs do).
pub(crate) fn forget(r: &mut ngx_http_request_t) {
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
