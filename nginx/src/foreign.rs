//! Settings of nginx's other modules, for the checks of `nginx -t`.
//!
//! Their types are private to their modules. Read here are the first words of a module's settings of
//! a location, and the key of a limit. They have been the same since nginx 1.11; tests hold them
//! for each nginx that is supported.

use core::ffi::CStr;

use nginx_sys::{
    ngx_array_t, ngx_flag_t, ngx_http_complex_value_t, ngx_http_script_complex_value_code,
    ngx_http_script_copy_var_len_code, ngx_http_script_return_code, ngx_http_script_return_code_t,
    ngx_http_script_var_code, ngx_http_script_var_code_t, ngx_http_variable_t, ngx_shm_zone_t,
    ngx_str_t,
};
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::conf::Conf;
use crate::configuration::Configuration;
use crate::servers::ServerLevel;
use crate::string::bytes;

/// A module that limits requests by a key, and the position of the key in the data of its zone.
struct Limiter {
    directive: &'static str,
    module: &'static CStr,
    /// Words before the key, which is an `ngx_http_complex_value_t`.
    words_before_key: usize,
}

const LIMITERS: [Limiter; 2] = [
    // ngx_http_limit_req_ctx_t: sh, shpool, rate, key.
    Limiter { directive: "limit_req", module: c"ngx_http_limit_req_module", words_before_key: 3 },
    // ngx_http_limit_conn_ctx_t: sh, shpool, key.
    Limiter { directive: "limit_conn", module: c"ngx_http_limit_conn_module", words_before_key: 2 },
];

/// Returns the words that follow the function `instruction` in the instructions of a script.
///
/// # Safety
///
/// `codes` is an array of bytes of a script: instructions of whole words, each of which begins with
/// its function.
unsafe fn operands(codes: &ngx_array_t, instruction: usize) -> impl Iterator<Item = usize> + '_ {
    const { assert!(size_of::<ngx_http_script_var_code_t>() == 2 * size_of::<usize>()) };
    let length = codes.nelts * codes.size / size_of::<usize>();
    // SAFETY: the caller's contract; a pool aligns arrays to words.
    let words = unsafe { core::slice::from_raw_parts(codes.elts.cast::<usize>(), length) };
    words.windows(2).filter_map(move |pair| match pair {
        [code, operand] if *code == instruction => Some(*operand),
        _ => None,
    })
}

impl<'a, C: Configuration> ServerLevel<'a, C> {
    /// Returns the directives `limit_req` and `limit_conn` in force here, and the keys of their
    /// zones as the configuration writes them.
    pub fn limits(&self, cf: &Conf<'_>) -> Vec<(&'static str, &'a [u8])> {
        let mut limits = Vec::new();
        for limiter in &LIMITERS {
            // SAFETY: settings of both modules begin with an array whose elements begin with a
            // pointer to a zone. The zone's data is null until the zone is defined.
            unsafe {
                let Some(set) = self.settings::<ngx_array_t>(cf, limiter.module) else { continue };
                for position in 0..set.nelts {
                    let limit = set.elts.byte_add(position * set.size);
                    let Some(zone) = limit.cast::<*const ngx_shm_zone_t>().read().as_ref() else {
                        continue;
                    };
                    if zone.data.is_null() {
                        continue;
                    }
                    let key = zone.data.cast::<usize>().add(limiter.words_before_key);
                    let key = &(*key.cast::<ngx_http_complex_value_t>()).value;
                    limits.push((limiter.directive, bytes(key)));
                }
            }
        }
        limits
    }

    /// Returns the names of the variables that `if` and `set` evaluate here: `if ($name)`, `set
    /// $other "a$name"`.
    pub fn rewrite_variables(&self, cf: &Conf<'_>) -> Vec<&'a [u8]> {
        // SAFETY: settings of the module begin with a pointer to an array of instructions, null
        // without rewrites. The one for a text with variables is its function and the array of
        // those for the length of the text.
        unsafe {
            let module = c"ngx_http_rewrite_module";
            let codes = self.settings::<*const ngx_array_t>(cf, module);
            let Some(codes) = codes.and_then(|codes| codes.as_ref()) else { return Vec::new() };
            let core = NgxHttpCoreModule::main_conf(&*cf.as_const_ptr());
            let variables = core.map(|core| core.variables.as_slice::<ngx_http_variable_t>());
            let variable = variables.unwrap_or_default();
            let mut indices =
                operands(codes, ngx_http_script_var_code as *const () as usize).collect::<Vec<_>>();
            for text in operands(codes, ngx_http_script_complex_value_code as *const () as usize) {
                if let Some(lengths) = (text as *const ngx_array_t).as_ref() {
                    let copies = ngx_http_script_copy_var_len_code as *const () as usize;
                    indices.extend(operands(lengths, copies));
                }
            }
            let used = indices.into_iter().filter_map(|index| variable.get(index));
            used.map(|variable| bytes(&variable.name)).collect()
        }
    }

    /// Returns the status of a `return` that stands before all other directives of the rewrite
    /// module here, so that it answers each request.
    pub fn returns_at_once(&self, cf: &Conf<'_>) -> Option<usize> {
        // SAFETY: settings of the module begin with a pointer to an array of instructions, null
        // without rewrites. It is an array of bytes, and an instruction begins with its function.
        unsafe {
            let module = c"ngx_http_rewrite_module";
            let codes = self.settings::<*const ngx_array_t>(cf, module)?.as_ref()?;
            let length = codes.nelts * codes.size;
            let first = *codes.elts.cast::<*const ()>().as_ref().filter(|_| length > 0)?;
            let is_return = first == ngx_http_script_return_code as *const ()
                && length >= size_of::<ngx_http_script_return_code_t>();
            is_return.then(|| (*codes.elts.cast::<ngx_http_script_return_code_t>()).status)
        }
    }

    /// Returns the URIs of `add_before_body` and `add_after_body` in force here.
    pub fn additions(&self, cf: &Conf<'_>) -> Vec<(&'static str, &'a [u8])> {
        // SAFETY: settings of the module begin with two strings, empty without the directives.
        let uris =
            unsafe { self.settings::<[ngx_str_t; 2]>(cf, c"ngx_http_addition_filter_module") };
        let Some([before, after]) = uris else { return Vec::new() };
        let named = [("add_before_body", before), ("add_after_body", after)];
        // SAFETY: strings of the configuration.
        let uris = named.map(|(directive, uri)| (directive, unsafe { bytes(uri) }));
        uris.into_iter().filter(|(_, uri)| !uri.is_empty()).collect()
    }

    /// Whether `ssi` is `on` here.
    pub fn has_ssi(&self, cf: &Conf<'_>) -> bool {
        // SAFETY: settings of the module begin with this flag.
        let flag = unsafe { self.settings::<ngx_flag_t>(cf, c"ngx_http_ssi_filter_module") };
        flag == Some(&1)
    }
}
