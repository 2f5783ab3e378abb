//! Lists of request headers (`ngx_list_t` of `ngx_table_elt_t`).
//!
//! Upstream modules ignore `hash`, and read the first element of each part after the first one
//! even if the part is empty. nginx keeps pointers to elements. For these reasons elements are
//! neither marked as deleted nor moved: the parts around them are cut and linked.

use core::marker::PhantomData;
use core::ptr;

use nginx_sys::{
    ngx_list_init, ngx_list_part_t, ngx_list_t, ngx_palloc, ngx_pcalloc, ngx_pool_t,
    ngx_table_elt_t,
};

use crate::error::Failed;
use crate::string::{bytes, is_word, str_of};

/// Lower-case name of a header, with its hash as of `ngx_hash_key()`. A constant costs nothing at
/// run time.
#[derive(Clone, Copy, Debug)]
pub struct HeaderName<'a> {
    text: &'a [u8],
    hash: usize,
}

impl<'a> HeaderName<'a> {
    /// `text` is lower-case.
    pub const fn new(text: &'a [u8]) -> Self {
        let (mut hash, mut rest) = (0_usize, text);
        while let [byte, after @ ..] = rest {
            hash = hash.wrapping_mul(31).wrapping_add(*byte as usize);
            rest = after;
        }
        Self { text, hash }
    }

    /// The hash.
    pub const fn hash(self) -> usize {
        self.hash
    }

    /// Like [`Self::new`], with the [`hash`](Self::hash) of that.
    pub const fn hashed(text: &'a [u8], hash: usize) -> Self {
        Self { text, hash }
    }
}

impl HeaderName<'static> {
    /// Makes a table of names at compile time.
    pub const fn all<const N: usize>(names: [&'static str; N]) -> [Self; N] {
        let mut all = [Self::new(b""); N];
        let (mut places, mut rest): (&mut [Self], &[&'static str]) = (&mut all, &names);
        while let ([place, more @ ..], [name, after @ ..]) = (places, rest) {
            *place = Self::new(name.as_bytes());
            (places, rest) = (more, after);
        }
        all
    }
}

/// Iterator over the elements of a list.
#[derive(Debug)]
pub(crate) struct Elements {
    part: *const ngx_list_part_t,
    index: usize,
}

impl Elements {
    /// Iterates over `list`.
    ///
    /// # Safety
    ///
    /// `list` is zeroed or a valid list of `ngx_table_elt_t`. It stays alive and does not change
    /// during the iteration.
    pub(crate) unsafe fn of(list: &ngx_list_t) -> Self {
        Self { part: &raw const list.part, index: 0 }
    }
}

impl Iterator for Elements {
    type Item = *mut ngx_table_elt_t;

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the contract of `of`; the index stays below the part's `nelts`.
        unsafe {
            while let Some(part) = self.part.as_ref() {
                if self.index < part.nelts {
                    self.index += 1;
                    return Some(part.elts.cast::<ngx_table_elt_t>().add(self.index - 1));
                }
                self.part = part.next;
                self.index = 0;
            }
            None
        }
    }
}

/// Iterator over the name and value of each header of a list.
#[derive(Debug)]
pub struct Headers<'a> {
    elements: Elements,
    _list: PhantomData<&'a ngx_list_t>,
}

impl<'a> Headers<'a> {
    /// Iterates over `list`.
    ///
    /// # Safety
    ///
    /// `list` is zeroed or a valid list of `ngx_table_elt_t` that does not change during `'a`.
    pub(crate) unsafe fn of(list: &'a ngx_list_t) -> Self {
        // SAFETY: the caller's contract.
        Self { elements: unsafe { Elements::of(list) }, _list: PhantomData }
    }

    /// Value of the next header `name`, which has lower-case letters only.
    pub(crate) fn next_named(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        // SAFETY: the contract of `of`; strings of headers live in the request's memory.
        unsafe {
            let header = self.elements.find(|&header| is(header, name))?;
            Some(bytes(&(*header).value))
        }
    }
}

/// Returns true if the name of `header` is `name`, which has lower-case letters only.
///
/// # Safety
///
/// `header` is valid.
pub(crate) unsafe fn is(header: *const ngx_table_elt_t, name: &[u8]) -> bool {
    // SAFETY: the caller's contract.
    unsafe { (*header).key.len == name.len() && is_word(bytes(&(*header).key), name) }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: the contract of `of`; strings of headers live in the request's memory.
        self.elements
            .next()
            .map(|header| unsafe { (bytes(&(*header).key), bytes(&(*header).value)) })
    }
}

/// Removes every header with an `unwanted` name from `list`, for good.
///
/// # Safety
///
/// `list` is zeroed or a valid list of `ngx_table_elt_t`, with its pool. No other request has
/// this list.
pub(crate) unsafe fn remove(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    unwanted: impl Fn(&[u8]) -> bool,
) -> Result<(), Failed> {
    // SAFETY: the list is valid and not touched by anybody else meanwhile.
    unsafe {
        let is_unwanted = |header: *mut ngx_table_elt_t| unwanted(bytes(&(*header).key));
        if !Elements::of(list).any(is_unwanted) {
            return Ok(());
        }
        // Code with a pointer to an element, such as `$http_*`, skips those whose hash is 0.
        Elements::of(list).filter(|h| is_unwanted(*h)).for_each(|header| (*header).hash = 0);
        leave_out(list, pool, is_unwanted)
    }
}

/// Takes elements out of `list`. The elements do not change: they may be in other lists too.
///
/// # Safety
///
/// `list` is a valid list of `ngx_table_elt_t`, with its pool.
pub(crate) unsafe fn leave_out(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    unwanted: impl Fn(*mut ngx_table_elt_t) -> bool,
) -> Result<(), Failed> {
    // Maximal runs of elements that stay, over all parts.
    let mut runs: Vec<(*mut ngx_table_elt_t, usize)> = Vec::new();
    let mut part: *const ngx_list_part_t = &raw const list.part;
    // SAFETY: indices stay below each part's `nelts`.
    unsafe {
        while !part.is_null() {
            let elts = (*part).elts.cast::<ngx_table_elt_t>();
            let mut in_run = false;
            for i in 0..(*part).nelts {
                let header = elts.add(i);
                match runs.last_mut() {
                    _ if unwanted(header) => in_run = false,
                    Some(run) if in_run => run.1 += 1,
                    _ => {
                        runs.push((header, 1));
                        in_run = true;
                    }
                }
            }
            part = (*part).next;
        }
        relink(list, pool, &runs)
    }
}

/// Makes `list` consist of these runs of elements, each the storage of one part. The elements do
/// not move. The parts that the list had, except for the first, do not change.
///
/// # Safety
///
/// As for [`remove`]; `runs` are non-empty and live in the pool.
pub(crate) unsafe fn relink(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    runs: &[(*mut ngx_table_elt_t, usize)],
) -> Result<(), Failed> {
    // SAFETY: new parts are memory of the request's pool, complete before they are linked.
    unsafe {
        // All parts are allocated before the list changes.
        let extra = runs.len().saturating_sub(1);
        let mut parts: Vec<*mut ngx_list_part_t> = Vec::with_capacity(extra);
        for _ in 0..extra {
            let part = ngx_pcalloc(pool, size_of::<ngx_list_part_t>()).cast::<ngx_list_part_t>();
            if part.is_null() {
                return Err(Failed);
            }
            parts.push(part);
        }
        let Some((&(elts, nelts), rest)) = runs.split_first() else {
            // nginx allocates further parts of `nalloc` elements, which must not be 0: so the
            // empty list has room for one.
            let elts = ngx_palloc(pool, size_of::<ngx_table_elt_t>());
            if elts.is_null() {
                return Err(Failed);
            }
            list.part = ngx_list_part_t { elts, nelts: 0, next: ptr::null_mut() };
            list.last = &raw mut list.part;
            list.nalloc = 1;
            return Ok(());
        };
        list.part.next = ptr::null_mut();
        list.last = &raw mut list.part;
        list.part.elts = elts.cast();
        list.part.nelts = nelts;
        for (&(elts, nelts), part) in rest.iter().zip(parts) {
            (*part).elts = elts.cast();
            (*part).nelts = nelts;
            (*list.last).next = part;
            list.last = part;
        }
        // The last part counts as full: the next push opens a new one.
        list.nalloc = (*list.last).nelts;
        Ok(())
    }
}

/// Appends `fields` to `list` as a new part, and returns the part, or null if there are no fields.
/// Names and values are not copied. There is room for `most` fields: any further ones are left out.
///
/// # Safety
///
/// `list` is zeroed or a valid list of `ngx_table_elt_t`; `pool` is the request's. Names
/// and values live as long as the pool. Names are lower-case.
pub(crate) unsafe fn append<'a>(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    most: usize,
    fields: impl Iterator<Item = (HeaderName<'a>, &'a [u8])>,
) -> Result<*mut ngx_list_part_t, Failed> {
    if most == 0 {
        return Ok(ptr::null_mut());
    }
    // SAFETY: the caller's contract; there is room for `most` elements, for which zeros are valid.
    unsafe {
        let (part, elts) = room(list, pool, most)?;
        elts.write_bytes(0, most);
        let count = fill(core::slice::from_raw_parts_mut(elts, most), fields);
        if count == 0 {
            return Ok(ptr::null_mut());
        }
        link(list, part, elts, count);
        Ok(part)
    }
}

/// Appends copies of `elements`, like [`append`].
///
/// # Safety
///
/// As for [`append`]; the elements are of [`fill`].
pub(crate) unsafe fn append_copies(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    elements: &[ngx_table_elt_t],
) -> Result<*mut ngx_list_part_t, Failed> {
    if elements.is_empty() {
        return Ok(ptr::null_mut());
    }
    // SAFETY: the caller's contract; there is room for the elements.
    unsafe {
        let (part, elts) = room(list, pool, elements.len())?;
        elts.copy_from_nonoverlapping(elements.as_ptr(), elements.len());
        link(list, part, elts, elements.len());
        Ok(part)
    }
}

/// Writes `fields` to zeroed `elements`, as many as there is room for. Returns their number.
pub(crate) fn fill<'a>(
    elements: &mut [ngx_table_elt_t],
    fields: impl Iterator<Item = (HeaderName<'a>, &'a [u8])>,
) -> usize {
    let most = elements.len();
    let mut free = elements.iter_mut();
    // for_each() is faster than a loop for chained iterators.
    fields.for_each(|(name, value)| {
        let Some(header) = free.next() else { return };
        header.key = str_of(name.text);
        header.value = str_of(value);
        header.lowcase_key = header.key.data;
        header.hash = name.hash;
    });
    most - free.len()
}

/// Makes room for a part that may be appended to `list`, and for `count` elements of it. Neither is
/// initialized.
///
/// # Safety
///
/// As for [`append`].
unsafe fn room(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    count: usize,
) -> Result<(*mut ngx_list_part_t, *mut ngx_table_elt_t), Failed> {
    // SAFETY: the list is valid; the memory has room for the part, and the elements behind it.
    unsafe {
        if list.last.is_null() {
            // A request line that could not be read leaves the list without storage.
            if ngx_list_init(list, pool, 1, size_of::<ngx_table_elt_t>()) != 0 {
                return Err(Failed);
            }
        }
        if !ptr::eq(list.last, &list.part) {
            // Subrequests share all parts but the first. The new parts made here are not in their
            // lists.
            leave_out(list, pool, |_| false)?;
        }
        const { assert!(align_of::<ngx_list_part_t>() >= align_of::<ngx_table_elt_t>()) };
        let size = size_of::<ngx_list_part_t>() + count * size_of::<ngx_table_elt_t>();
        let part = ngx_palloc(pool, size).cast::<ngx_list_part_t>();
        if part.is_null() {
            return Err(Failed);
        }
        Ok((part, part.add(1).cast()))
    }
}

/// Appends a part of [`room`], with its first `count` elements.
///
/// # Safety
///
/// `list` has not changed since, and `count` elements are initialized: one at least.
unsafe fn link(
    list: &mut ngx_list_t,
    part: *mut ngx_list_part_t,
    elts: *mut ngx_table_elt_t,
    count: usize,
) {
    // SAFETY: the caller's contract; the part is complete before it is linked.
    unsafe {
        part.write(ngx_list_part_t { elts: elts.cast(), nelts: count, next: ptr::null_mut() });
        (*list.last).next = part;
    }
    list.last = part;
    list.nalloc = count;
}

/// Takes `part`, which [`append`] returned, out of `list`. The lists of subrequests keep the part.
///
/// # Safety
///
/// As for [`append`].
pub(crate) unsafe fn unlink(
    list: &mut ngx_list_t,
    pool: *mut ngx_pool_t,
    part: *mut ngx_list_part_t,
) -> Result<(), Failed> {
    // SAFETY: the list and the part are valid.
    unsafe {
        if ptr::eq(list.part.next, part) && ptr::eq(list.last, part) {
            // No other list has this first part.
            list.part.next = ptr::null_mut();
            list.last = &raw mut list.part;
            // The part counts as full, so that the next push opens a new one. The minimum is 1,
            // because nginx allocates new parts of `nalloc` elements.
            list.nalloc = list.part.nelts.max(1);
            return Ok(());
        }
        let elts = (*part).elts.cast::<ngx_table_elt_t>();
        let own = elts..elts.add((*part).nelts);
        leave_out(list, pool, |header| own.contains(&header))
    }
}
