//! Hiding credentials in a request from upstream modules.
//!
//! Upstream modules read the list of headers. The request gets another list with parts of its
//! own, in which fields are missing, or replaced by changed copies. The original list and its
//! elements do not change. They are restored when the next pass begins. Subrequests that copied
//! the other list keep it.
//!
//! nginx also keeps pointers to elements (`headers_in.authorization`, and the cookies). They are
//! not changed, because variables use them, and caches may key responses by these variables.

use core::cell::RefCell;
use core::ptr;
use std::vec;

use nginx_sys::{
    ngx_http_headers_in_t, ngx_list_part_t, ngx_list_t, ngx_palloc, ngx_pool_t, ngx_table_elt_t,
};

use crate::error::Failed;
use crate::headers::{is, relink, Headers};
use crate::request::Request;
use crate::string::{bytes, copy_to, is_word};

/// Part of a field that upstream modules see.
#[derive(Debug)]
pub enum Shown {
    /// The whole field.
    Whole,
    /// The field with this value.
    Instead(Vec<u8>),
    /// No field.
    Nothing,
}

/// The fields that may be hidden: letters only, for [`is_word`].
const NAMES: [&[u8]; 2] = [b"authorization", b"cookie"];

/// The hidden fields of a request, if some are hidden.
#[derive(Default)]
pub(crate) struct HiddenCell(RefCell<Option<Hidden>>);

/// The request's headers before some were hidden.
struct Hidden {
    list: ngx_list_t,
    /// Last part of the list that is shown. Fields that were pushed since are in later parts.
    last_shown: *mut ngx_list_part_t,
    /// Whether no field is shown. Fields that were pushed since begin in the first part.
    shows_nothing: bool,
    /// Elements that are not in the list that is shown, in their order.
    originals: Vec<*mut ngx_table_elt_t>,
}

impl Request {
    /// Implements [`Self::hide`], with the cell of the request.
    pub(crate) fn hide_in(
        &mut self,
        hidden: &HiddenCell,
        show: impl Fn(&'static [u8], &[u8]) -> Shown,
    ) -> Result<(), Failed> {
        let mut slot = hidden.0.borrow_mut();
        if slot.is_none() {
            // SAFETY: the request's own list, pointers and pool.
            let r = unsafe { &mut *self.as_ptr() };
            // SAFETY: as above.
            *slot = unsafe { hide(&mut r.headers_in, r.pool, show)? };
        }
        Ok(())
    }

    /// Hides fields like [`Self::hide`] for a subrequest that has its own headers, for good.
    pub fn hide_in_subrequest(
        &mut self,
        show: impl Fn(&'static [u8], &[u8]) -> Shown,
    ) -> Result<(), Failed> {
        // SAFETY: as above.
        unsafe {
            let r = self.as_ptr();
            hide(&mut (*r).headers_in, (*r).pool, show).map(drop)
        }
    }

    /// Implements [`Self::restore`], with the cell of the request.
    pub(crate) fn restore_from(&mut self, hidden: &HiddenCell) {
        let Some(hidden) = hidden.0.take() else { return };
        // SAFETY: `hidden` is of this request, whose list has been valid since.
        unsafe {
            let r = self.as_ptr();
            restore(&mut (*r).headers_in, (*r).pool, hidden);
        }
    }

    /// Implements [`Self::sent`], with the cell of the request.
    pub(crate) fn sent_with<const N: usize>(
        &self,
        hidden: Option<&HiddenCell>,
        name: &'static [u8; N],
    ) -> Sent<'_, N> {
        let originals = match hidden {
            Some(hidden) if hidden.0.borrow().is_some() => hidden.originals(name),
            _ => Vec::new(),
        };
        // If a field of this name is hidden, all that are shown are copies.
        match originals.is_empty() {
            true => Sent::Shown(name, self.headers_in()),
            false => Sent::Hidden(originals.into_iter()),
        }
    }
}

impl HiddenCell {
    #[cold]
    fn originals(&self, name: &[u8]) -> Vec<*mut ngx_table_elt_t> {
        let hidden = self.0.borrow();
        let all = hidden.iter().flat_map(|hidden| &hidden.originals).copied();
        // SAFETY: elements live as long as the request.
        all.filter(|&header| unsafe { is(header, name) }).collect()
    }
}

/// Iterator over the values of the fields of a name, as the client sent them. Its length is known to
/// the compiler, which makes the comparisons shorter.
#[derive(Debug)]
pub(crate) enum Sent<'a, const N: usize> {
    /// The fields of this name are among the shown ones.
    Shown(&'static [u8; N], Headers<'a>),
    /// The fields are hidden.
    Hidden(vec::IntoIter<*mut ngx_table_elt_t>),
}

impl<'a, const N: usize> Iterator for Sent<'a, N> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Self::Shown(name, fields) => fields.next_named(*name),
            // SAFETY: elements live as long as the request; no code changes them.
            Self::Hidden(fields) => fields.next().map(|field| unsafe { bytes(&(*field).value) }),
        }
    }
}

/// Hides fields as `show` says. Returns `None` if no field changes.
///
/// # Safety
///
/// `headers_in` is a request's, with its pool.
unsafe fn hide(
    headers_in: &mut ngx_http_headers_in_t,
    pool: *mut ngx_pool_t,
    show: impl Fn(&'static [u8], &[u8]) -> Shown,
) -> Result<Option<Hidden>, Failed> {
    // SAFETY: the list and its elements are valid and not touched by anybody else meanwhile;
    // indices stay below each part's `nelts`; new elements and parts are memory of the pool.
    unsafe {
        let changes = NAMES.map(|name| {
            let mut fields = Headers::of(&headers_in.headers).filter(|(n, _)| is_word(n, name));
            fields.any(|(_, value)| !matches!(show(name, value), Shown::Whole))
        });
        if changes == [false; 2] {
            return Ok(None);
        }

        let mut originals = Vec::new();
        let mut copies: [Vec<*mut ngx_table_elt_t>; 2] = Default::default();
        let mut runs: Vec<(*mut ngx_table_elt_t, usize)> = Vec::new();
        let mut part: *const ngx_list_part_t = &raw const headers_in.headers.part;
        while !part.is_null() {
            let elts = (*part).elts.cast::<ngx_table_elt_t>();
            let mut in_run = false;
            for i in 0..(*part).nelts {
                let header = elts.add(i);
                // If one field of a name changes, the others are copied too, because fields of one
                // name are linked with each other.
                let known = (NAMES.iter().zip(changes).zip(&mut copies))
                    .find(|((name, changes), _)| *changes && is(header, name));
                match known {
                    None if in_run => {
                        if let Some(run) = runs.last_mut() {
                            run.1 += 1;
                        }
                    }
                    None => {
                        runs.push((header, 1));
                        in_run = true;
                    }
                    Some(((name, _), copies)) => {
                        originals.push(header);
                        let value = match show(name, bytes(&(*header).value)) {
                            Shown::Whole => Some((*header).value),
                            Shown::Instead(value) => Some(copy_to(pool, &value)?),
                            Shown::Nothing => None,
                        };
                        if let Some(value) = value {
                            let copy = ngx_palloc(pool, size_of::<ngx_table_elt_t>())
                                .cast::<ngx_table_elt_t>();
                            if copy.is_null() {
                                return Err(Failed);
                            }
                            copy.copy_from_nonoverlapping(header, 1);
                            (*copy).value = value;
                            copies.push(copy);
                            runs.push((copy, 1));
                        }
                        in_run = false;
                    }
                }
            }
            part = (*part).next;
        }

        copies.iter().for_each(|copies| link(copies));
        let list = headers_in.headers;
        relink(&mut headers_in.headers, pool, &runs)?;
        let hidden = Hidden {
            list,
            last_shown: headers_in.headers.last,
            shows_nothing: runs.is_empty(),
            originals,
        };
        Ok(Some(hidden))
    }
}

/// Restores the original list, with the fields that were pushed since.
///
/// # Safety
///
/// `hidden` is the result of [`hide`] for these headers.
unsafe fn restore(headers_in: &mut ngx_http_headers_in_t, pool: *mut ngx_pool_t, hidden: Hidden) {
    // SAFETY: both lists are valid; what is behind the last part of the one is linked behind the
    // last part of the other.
    unsafe {
        let list = &mut headers_in.headers;
        let mut pushed = match ptr::eq(hidden.last_shown, &list.part) {
            true => list.part.next,
            false => (*hidden.last_shown).next,
        };
        if hidden.shows_nothing && list.part.nelts > 0 {
            let part = ngx_palloc(pool, size_of::<ngx_list_part_t>()).cast::<ngx_list_part_t>();
            if !part.is_null() {
                part.write(list.part);
                pushed = part;
            }
        }
        *list = hidden.list;
        if !pushed.is_null() {
            (*list.last).next = pushed;
            while !(*list.last).next.is_null() {
                list.last = (*list.last).next;
            }
            // The last part counts as full: the next push opens a new one.
            list.nalloc = (*list.last).nelts;
        }
    }
}

/// Links fields of one name, as nginx does since 1.23.0.
///
/// # Safety
///
/// The fields are valid.
#[cfg(nginx1_23_0)]
unsafe fn link(fields: &[*mut ngx_table_elt_t]) {
    for (i, field) in fields.iter().enumerate() {
        let next = fields.get(i + 1).copied().unwrap_or(ptr::null_mut());
        // SAFETY: the caller's contract.
        unsafe { (**field).next = next };
    }
}

#[cfg(not(nginx1_23_0))]
unsafe fn link(_fields: &[*mut ngx_table_elt_t]) {}
