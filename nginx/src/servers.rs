//! The servers and locations of a configuration, for the checks of `nginx -t`.

use core::ffi::{c_void, CStr};
use core::fmt;
use core::marker::PhantomData;

use nginx_sys::{
    ngx_http_core_loc_conf_t, ngx_http_core_srv_conf_t, ngx_http_err_page_t,
    ngx_http_location_tree_node_t,
};
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::conf::{Conf, SourceLocation};
use crate::configuration::{Configuration, Level};
use crate::string::{bytes, str_of};

/// A `server {}`.
pub struct Server<'a, C>(&'a ngx_http_core_srv_conf_t, PhantomData<C>);

/// A `location {}`, or the `server {}` level outside of all locations.
pub struct ServerLevel<'a, C: Configuration> {
    core: &'a ngx_http_core_loc_conf_t,
    /// Configuration of each HTTP module.
    confs: *mut *mut c_void,
    /// Configuration of the module.
    pub conf: &'a C::Location,
}

/// Address of the function that answers the requests of a location. Tells later whether another
/// directive replaced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentMark(usize);

impl ContentMark {
    pub(crate) fn of(core: &ngx_http_core_loc_conf_t) -> Option<Self> {
        core.handler.map(|handler| Self(handler as *const () as usize))
    }
}

impl<C: Configuration> fmt::Debug for Server<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl<C: Configuration> fmt::Debug for ServerLevel<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLevel").finish_non_exhaustive()
    }
}

impl<C: Configuration> Clone for ServerLevel<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Configuration> Copy for ServerLevel<'_, C> {}

impl Conf<'_> {
    /// Returns the index of the HTTP module `name` among the configurations of a level, if nginx
    /// has it.
    pub fn module_index(&self, name: &CStr) -> Option<usize> {
        // SAFETY: `modules` is an array of pointers to modules that ends with a null; a name is
        // null or ends with a zero.
        unsafe {
            let mut next = (*(*self.as_const_ptr()).cycle).modules;
            while let Some(module) = (*next).as_ref() {
                if !module.name.is_null() && CStr::from_ptr(module.name.cast()) == name {
                    return Some(module.ctx_index);
                }
                next = next.add(1);
            }
            None
        }
    }

    /// Returns all servers. For postconfiguration, when nginx has merged them and sorted their
    /// locations.
    pub fn servers<C: Configuration>(&self) -> Vec<Server<'_, C>> {
        // SAFETY: inside http {}; an array of pointers to servers, which live as long as the
        // configuration.
        unsafe {
            let core = NgxHttpCoreModule::main_conf(&*self.as_const_ptr());
            let servers = core.map(|core| core.servers.as_slice::<*mut ngx_http_core_srv_conf_t>());
            let servers = servers.unwrap_or_default().iter();
            servers.filter_map(|server| Some(Server(server.as_ref()?, PhantomData))).collect()
        }
    }
}

impl<'a, C: Configuration> Server<'a, C> {
    /// Returns the module's configuration of the server.
    pub fn conf(&self) -> &'a C::Server {
        // SAFETY: nginx made one for each server (create_srv_conf).
        unsafe { &*(*(*self.0.ctx).srv_conf.add(C::index().get())).cast() }
    }

    /// Returns the line where its block begins.
    pub fn place(&self) -> SourceLocation {
        let file = match self.0.file_name.is_null() {
            true => c"",
            // SAFETY: nginx ends the names of files with a zero.
            false => unsafe { CStr::from_ptr(self.0.file_name.cast()) },
        };
        SourceLocation::new(file.to_bytes(), self.0.line)
    }

    /// Whether header names with underscores are valid.
    pub fn takes_underscores(&self) -> bool {
        self.0.underscores_in_headers != 0
    }

    /// Whether headers with invalid names are accepted.
    pub fn takes_invalid_headers(&self) -> bool {
        self.0.ignore_invalid_headers == 0
    }

    /// Returns the level of the server itself.
    fn root(&self) -> Option<ServerLevel<'a, C>> {
        // SAFETY: each server has an entry of nginx's core and of this module.
        unsafe {
            let confs = (*self.0.ctx).loc_conf;
            let core = *confs.add(nginx_sys::ngx_http_core_module.ctx_index);
            Some(ServerLevel {
                confs,
                core: core.cast::<ngx_http_core_loc_conf_t>().as_ref()?,
                conf: (*confs.add(C::index().get())).cast::<Level<C::Location>>().as_ref()?.get(),
            })
        }
    }

    /// Returns the level of the server and all its locations.
    pub fn levels(&self) -> Vec<ServerLevel<'a, C>> {
        let mut levels: Vec<ServerLevel<'a, C>> = self.root().into_iter().collect();
        levels.extend(self.named());
        let mut next = 0;
        while let Some(level) = levels.get(next).copied() {
            level.children(&mut levels);
            next += 1;
        }
        levels
    }

    fn named(&self) -> Vec<ServerLevel<'a, C>> {
        // SAFETY: null, or pointers to locations up to a null.
        unsafe { list(self.0.named_locations) }
    }

    /// Returns the level that handles `uri`, which begins with `/`, or with `@` for a named
    /// location. `None` if that depends on a regular expression that cannot be tried.
    pub fn find(&self, uri: &[u8]) -> Option<ServerLevel<'a, C>> {
        if uri.starts_with(b"@") {
            // SAFETY: names live as long as the configuration.
            return self
                .named()
                .into_iter()
                .find(|level| unsafe { bytes(&level.core.name) } == uri);
        }
        let root = self.root()?;
        match root.find(uri) {
            Search::Nothing => Some(root),
            Search::Prefix(level) | Search::End(level) => Some(level),
            Search::Unknown => None,
        }
    }
}

impl<'a, C: Configuration> ServerLevel<'a, C> {
    /// Returns whether another module has settings here, by the first word of its configuration:
    /// for `auth_basic` its realm, for `allow` and `deny` their rules, for `auth_request` its
    /// length. Each is 0 where the directive does not apply.
    pub fn is_used(&self, module: Option<usize>) -> bool {
        let Some(index) = module else { return false };
        // SAFETY: each module with an index has an entry in the array of each location, null or a
        // block of at least one word. The word is read and not followed.
        unsafe {
            // Null for the server's own level, whose directives its locations inherit.
            if self.core.loc_conf.is_null() {
                return false;
            }
            let conf = (*self.core.loc_conf.add(index)).cast::<usize>();
            conf.as_ref().is_some_and(|word| *word != 0 && *word != usize::MAX)
        }
    }

    /// Returns true if `other` is the same level.
    pub fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.core, other.core)
    }

    /// Whether requests come here by an internal redirect or a subrequest only: a named location, or
    /// one with `internal`.
    pub fn is_internal(&self) -> bool {
        self.core.named() != 0 || self.core.internal != 0
    }

    /// Returns the text after `location` in the configuration, without its modifier; empty for the
    /// server's own level.
    pub fn name(&self) -> &'a [u8] {
        // SAFETY: names live as long as the configuration.
        unsafe { bytes(&self.core.name) }
    }

    /// Returns what answers the requests here in the content phase, if a directive says so.
    pub fn content(&self) -> Option<ContentMark> {
        ContentMark::of(self.core)
    }

    /// Returns the settings of another module here, or the first words of them.
    ///
    /// # Safety
    ///
    /// The module's settings of a location begin with a `T`.
    pub(crate) unsafe fn settings<T>(&self, cf: &Conf<'_>, module: &CStr) -> Option<&'a T> {
        let index = cf.module_index(module)?;
        // SAFETY: each module with an index has an entry in the array of each location, null or as
        // the caller says.
        unsafe { (*self.confs.add(index)).cast::<T>().as_ref() }
    }

    /// Wraps `core`.
    ///
    /// # Safety
    ///
    /// `core` is null or a location that lives during `'a`.
    unsafe fn of(core: *const ngx_http_core_loc_conf_t) -> Option<Self> {
        // SAFETY: the caller's contract; each location has an entry of this module.
        unsafe {
            let core = core.as_ref()?;
            let confs = core.loc_conf;
            let conf = (*confs.add(C::index().get())).cast::<Level<C::Location>>();
            Some(Self { core, confs, conf: conf.as_ref()?.get() })
        }
    }

    /// Returns the targets without variables of its `error_page` lines for `status`.
    pub fn error_pages(&self, status: u16) -> Vec<&'a [u8]> {
        // SAFETY: null or an array of such pages, whose strings live as long as the configuration.
        unsafe {
            let pages = self.core.error_pages.as_ref();
            let pages = pages.map(|pages| pages.as_slice::<ngx_http_err_page_t>());
            let pages = pages.unwrap_or_default().iter();
            pages
                .filter(|page| page.status == status as isize && page.value.lengths.is_null())
                .map(|page| bytes(&page.value.value))
                .collect()
        }
    }

    fn regex_locations(&self) -> Vec<Self> {
        #[cfg(ngx_feature = "pcre")]
        // SAFETY: null, or pointers to locations up to a null.
        return unsafe { list(self.core.regex_locations) };
        #[cfg(not(ngx_feature = "pcre"))]
        return Vec::new();
    }

    /// Appends the locations right below this level to `levels`.
    fn children(&self, levels: &mut Vec<Self>) {
        // SAFETY: the tree of this level's locations.
        unsafe { collect(self.core.static_locations, levels) };
        levels.extend(self.regex_locations());
    }

    /// Finds the location of `uri` as ngx_http_core_find_location() does.
    fn find(self, uri: &[u8]) -> Search<'a, C> {
        // SAFETY: the tree of this level's locations.
        let (mut best, noregex) = match unsafe { find_static(self.core.static_locations, uri) } {
            Search::Prefix(level) => match level.find(uri) {
                Search::Nothing => (Search::Prefix(level), level.core.noregex() != 0),
                nested @ Search::Prefix(_) => (nested, level.core.noregex() != 0),
                end => return end,
            },
            Search::Nothing => (Search::Nothing, false),
            end => return end,
        };
        if noregex {
            return best;
        }
        for level in self.regex_locations() {
            match level.matches(uri) {
                Some(false) => {}
                Some(true) => {
                    best = match level.find(uri) {
                        Search::Nothing => Search::End(level),
                        Search::Prefix(level) => Search::End(level),
                        end => end,
                    };
                    break;
                }
                None => return Search::Unknown,
            }
        }
        best
    }

    /// Whether the regular expression of this location matches. `None` without PCRE2.
    fn matches(&self, uri: &[u8]) -> Option<bool> {
        #[cfg(ngx_feature = "pcre2")]
        // SAFETY: null or a compiled expression of the configuration; one capture is three numbers.
        return unsafe {
            let regex = self.core.regex.as_ref()?.regex;
            let mut captures = [0; 3];
            let mut uri = str_of(uri);
            Some(nginx_sys::ngx_regex_exec(regex, &mut uri, captures.as_mut_ptr(), 3) >= 0)
        };
        #[cfg(not(ngx_feature = "pcre2"))]
        {
            let _ = uri;
            None
        }
    }
}

/// Result of a search for a location.
enum Search<'a, C: Configuration> {
    /// No location below this level.
    Nothing,
    /// A location, unless a regular expression matches.
    Prefix(ServerLevel<'a, C>),
    /// A location, whatever regular expressions match.
    End(ServerLevel<'a, C>),
    /// Cannot be determined, or nginx redirects the request.
    Unknown,
}

/// Finds the location of `uri` as ngx_http_core_find_static_location() does.
///
/// # Safety
///
/// `node` is null or the root of a tree of locations that live during `'a`.
unsafe fn find_static<'a, C: Configuration>(
    mut node: *const ngx_http_location_tree_node_t,
    mut uri: &[u8],
) -> Search<'a, C> {
    let mut found = Search::Nothing;
    // SAFETY: the caller's contract.
    unsafe {
        while let Some(here) = node.as_ref() {
            let name = name(here);
            let common = uri.len().min(name.len());
            let (start, rest) = uri.split_at(common);
            node = match start.cmp(name.get(..common).unwrap_or_default()) {
                core::cmp::Ordering::Less => here.left,
                core::cmp::Ordering::Greater => here.right,
                core::cmp::Ordering::Equal if uri.len() > name.len() => {
                    match ServerLevel::of(here.inclusive) {
                        Some(level) => {
                            found = Search::Prefix(level);
                            uri = rest;
                            here.tree
                        }
                        None => here.right,
                    }
                }
                core::cmp::Ordering::Equal if uri.len() == name.len() => {
                    return match (ServerLevel::of(here.exact), ServerLevel::of(here.inclusive)) {
                        (Some(level), _) => Search::End(level),
                        (None, Some(level)) => Search::Prefix(level),
                        (None, None) => Search::Unknown,
                    };
                }
                core::cmp::Ordering::Equal => {
                    if uri.len() + 1 == name.len() && here.auto_redirect != 0 {
                        found = Search::Unknown;
                    }
                    here.left
                }
            };
        }
    }
    found
}

/// Returns the name of the location, relative to the parent node.
///
/// # Safety
///
/// `node` is a node of a tree of locations.
unsafe fn name(node: &ngx_http_location_tree_node_t) -> &[u8] {
    // SAFETY: the name continues behind the struct, for `len` bytes
    // (ngx_http_create_locations_tree()).
    unsafe {
        let node = core::ptr::from_ref(node);
        core::slice::from_raw_parts((&raw const (*node).name).cast(), (*node).len.into())
    }
}

/// Appends all locations of the tree below `node` to `levels`.
///
/// # Safety
///
/// As for [`find_static`].
unsafe fn collect<C: Configuration>(
    node: *const ngx_http_location_tree_node_t,
    levels: &mut Vec<ServerLevel<'_, C>>,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let Some(node) = node.as_ref() else { return };
        levels.extend(ServerLevel::of(node.exact));
        levels.extend(ServerLevel::of(node.inclusive));
        for below in [node.left, node.right, node.tree] {
            collect(below, levels);
        }
    }
}

/// Returns the locations of an array that ends with null.
///
/// # Safety
///
/// `first` is null or points to such an array, of locations that live during `'a`.
unsafe fn list<'a, C: Configuration>(
    first: *mut *mut ngx_http_core_loc_conf_t,
) -> Vec<ServerLevel<'a, C>> {
    let mut levels = Vec::new();
    let mut next = first;
    // SAFETY: the caller's contract.
    unsafe {
        while let Some(location) = next.as_ref().filter(|location| !location.is_null()) {
            levels.extend(ServerLevel::of(*location));
            next = next.add(1);
        }
    }
    levels
}
