//! Projections of `updateDescription`, whose paths do not say how they are to be read.
//!
//! `a.0.b` may be the field `b` of an array's first element, or of a field with the name `0`; and
//! names may hold dots themselves, so it may as well be one field of that name. A change is shown
//! if every reading shows it. Where some do and some do not, the documents before and after the
//! change tell, where they are at hand: of the readings that fit what is there, again every one has
//! to show it. In doubt it is hidden.
//!
//! What a document tells has to be certain, and the document after an update is often a later
//! state, looked up since. So a changed field counts as found only if it has the very value there;
//! then nothing is shown of it that the document itself does not show.

use std::cell::RefCell;
use std::collections::HashMap;

use bson::{RawDocument, RawDocumentBuf};

use super::{MAX_NESTING, Mode, Projection, Tree};
use crate::event::raw::{Elements, Value, tag};
use crate::matcher::value::write::{Writer, index_name};

/// Paths of more parts are not read: in doubt.
const MAX_PARTS: usize = MAX_NESTING as usize;
/// So many times a container is searched before it is indexed.
const SEARCHES: usize = 4;

/// The documents of an update, as far as they are at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Images<'a> {
    pub before: Option<&'a RawDocument>,
    /// Right after the update, or as it was looked up later.
    pub after: Option<&'a RawDocument>,
}

/// What is seen of a value.
#[derive(Clone, Copy)]
enum Seen<'t> {
    All,
    /// What the tree leaves of it.
    Inside(&'t Tree),
}

/// What is seen of a change.
enum Sight<'t> {
    Shown(Seen<'t>),
    /// Not even its name, however it is read.
    Hidden,
    /// Not either, but it may be that `find` would show it.
    Doubtful,
}

/// Where a reading has come to in the projection.
#[derive(Clone, Copy)]
enum Visibility<'t> {
    Hidden,
    All,
    At(&'t Tree),
}

/// What the readings of a path come to.
#[derive(Default)]
struct Readings<'t> {
    shown: Option<Seen<'t>>,
    is_hidden: bool,
    /// One comes to a value of whose fields some are included, and that has none.
    is_bare: bool,
}

impl<'t> Readings<'t> {
    fn add(&mut self, place: Visibility<'t>) {
        match (place, self.shown) {
            (Visibility::Hidden, _) => self.is_hidden = true,
            (Visibility::All, None) => self.shown = Some(Seen::All),
            (Visibility::All, Some(_)) => {}
            // Two that leave different things of it: none that is sure.
            (Visibility::At(tree), Some(Seen::Inside(other))) if !std::ptr::eq(tree, other) => {
                self.is_hidden = true;
            }
            (Visibility::At(tree), _) => self.shown = Some(Seen::Inside(tree)),
        }
    }

    fn sight(self) -> Sight<'t> {
        match (self.shown, self.is_hidden) {
            (Some(seen), false) => Sight::Shown(seen),
            (None, true) => Sight::Hidden,
            (Some(_), true) | (None, false) => Sight::Doubtful,
        }
    }
}

/// One change of an update.
enum Change<'a> {
    /// The field's new value.
    Set(Value<'a>),
    Removed,
    /// An array that was cut.
    Truncated,
}

/// What helps to read paths.
struct Clues<'a> {
    disambiguated: Option<Value<'a>>,
    before: Option<Value<'a>>,
    after: Option<Value<'a>>,
    fields: Fields<'a>,
}

/// Fields by name. An update may change thousands of fields of a document that has thousands, so
/// what is asked more than a few times is indexed.
#[derive(Default)]
struct Fields<'a> {
    /// By where the container lies.
    known: RefCell<HashMap<*const u8, Known<'a>>>,
}

#[derive(Default)]
struct Known<'a> {
    asked: usize,
    index: HashMap<&'a [u8], Value<'a>>,
}

impl<'a> Fields<'a> {
    /// The first field of that name.
    fn find(&self, container: Value<'a>, name: &[u8]) -> Option<Value<'a>> {
        if !container.is_container() {
            return None;
        }
        let mut known = self.known.borrow_mut();
        let known = known.entry(container.data.as_ptr()).or_default();
        known.asked += 1;
        if known.asked <= SEARCHES {
            return container.elements().find_key(name);
        }
        if known.index.is_empty() {
            for (name, value) in container.elements() {
                known.index.entry(name).or_insert(value);
            }
        }
        known.index.get(name).copied()
    }
}

impl<'a> Clues<'a> {
    fn of(update: &'a RawDocument, images: Images<'a>) -> Clues<'a> {
        Clues {
            disambiguated: Elements::new(update.as_bytes()).find_key(b"disambiguatedPaths"),
            before: images.before.map(Value::document),
            after: images.after.map(Value::document),
            fields: Fields::default(),
        }
    }
}

impl Projection {
    /// What it leaves of an `updateDescription`.
    pub fn apply_update_description(
        &self,
        update: &RawDocument,
        images: Images<'_>,
    ) -> RawDocumentBuf {
        let clues = &Clues::of(update, images);
        let mut writer = Writer::document();
        for (name, value) in Elements::new(update.as_bytes()) {
            match (name, value.tag) {
                (b"updatedFields", tag::DOCUMENT) => {
                    writer.open(name, tag::DOCUMENT);
                    for (path, value) in value.elements() {
                        if let Sight::Shown(seen) = self.sight(path, &Change::Set(value), clues) {
                            self.write_seen(path, value, seen, &mut writer);
                        }
                    }
                    writer.close();
                }
                (b"disambiguatedPaths", tag::DOCUMENT) => {
                    writer.open(name, tag::DOCUMENT);
                    for (path, parts) in value.elements() {
                        // It is among them, so the kind of the change makes no difference.
                        if self.sight(path, &Change::Removed, clues).is_shown() {
                            writer.element(path, parts);
                        }
                    }
                    writer.close();
                }
                (b"removedFields" | b"truncatedArrays", tag::ARRAY) => {
                    writer.open(name, tag::ARRAY);
                    let listed = listed(name, value);
                    let seen = listed.filter(|(path, change, _)| {
                        path.is_some_and(|path| self.sight(path, change, clues).is_shown())
                    });
                    for (index, (_, _, element)) in seen.enumerate() {
                        writer.element(index_name(index).as_bytes(), element);
                    }
                    writer.close();
                }
                // What a later server adds may name hidden fields.
                _ => {}
            }
        }
        writer.finish()
    }

    /// Whether an update changed something, and surely nothing that the projection shows.
    pub fn hides_update(&self, update: &RawDocument, images: Images<'_>) -> bool {
        let clues = &Clues::of(update, images);
        let mut changes = 0;
        for (name, value) in Elements::new(update.as_bytes()) {
            let is_hidden = match (name, value.tag) {
                (b"updatedFields", tag::DOCUMENT) => value.elements().all(|(path, value)| {
                    changes += 1;
                    self.sight(path, &Change::Set(value), clues).is_hidden()
                }),
                (b"removedFields" | b"truncatedArrays", tag::ARRAY) => {
                    listed(name, value).all(|(path, change, _)| {
                        changes += 1;
                        path.is_some_and(|path| self.sight(path, &change, clues).is_hidden())
                    })
                }
                (b"disambiguatedPaths", _) => true,
                _ => false,
            };
            if !is_hidden {
                return false;
            }
        }
        changes > 0
    }

    /// Writes what is seen of the value of a `documentKey`'s field, whose dots always lead into
    /// documents.
    pub(super) fn write_key(&self, path: &[u8], value: Value<'_>, writer: &mut Writer) {
        let parts = path.split(|byte| *byte == b'.');
        match parts.fold(Visibility::At(&self.root), |place, name| self.step(place, name)) {
            Visibility::Hidden => {}
            Visibility::All => writer.element(path, value),
            Visibility::At(tree) => self.project_inside(path, value, tree, MAX_NESTING, writer),
        }
    }

    fn write_seen(&self, path: &[u8], value: Value<'_>, seen: Seen<'_>, writer: &mut Writer) {
        match seen {
            Seen::All => writer.element(path, value),
            Seen::Inside(tree) => self.project_inside(path, value, tree, MAX_NESTING, writer),
        }
    }

    fn sight<'t>(&'t self, path: &[u8], change: &Change<'_>, clues: &Clues<'_>) -> Sight<'t> {
        let disambiguated = clues.disambiguated.and_then(|paths| clues.fields.find(paths, path));
        if let Some(parts) = disambiguated {
            let mut readings = Readings::default();
            readings.add(parts.elements().fold(Visibility::At(&self.root), |place, (_, part)| {
                match part.is_number() {
                    true => place,
                    false => self.step(place, part.text()),
                }
            }));
            return readings.sight();
        }
        if path.iter().filter(|byte| **byte == b'.').count() >= MAX_PARTS {
            return Sight::Doubtful;
        }
        let mut readings = Readings::default();
        self.all_readings(Visibility::At(&self.root), path, true, &mut readings);
        let mut sight = readings.sight();
        // Of what is no document, nothing is shown, not even that it is there.
        let may_be_bare = match change {
            Change::Set(value) => !value.is_container(),
            Change::Removed => true,
            Change::Truncated => false,
        };
        if may_be_bare
            && self.mode == Mode::Include
            && matches!(sight, Sight::Shown(Seen::Inside(_)))
        {
            sight = Sight::Doubtful;
        }
        let image = match change {
            Change::Set(_) | Change::Truncated => clues.after,
            Change::Removed => clues.before,
        };
        let (Sight::Doubtful, Some(image)) = (&sight, image) else { return sight };
        let found = self.found(image, path, &clues.fields, &|found| match change {
            Change::Set(value) => found.tag == value.tag && found.data == value.data,
            Change::Truncated => found.is_array(),
            Change::Removed => true,
        });
        let is_bare_now = found.is_bare && matches!(change, Change::Set(_));
        let sight = found.sight();
        match (is_bare_now, clues.before) {
            (false, _) => sight,
            // It may have had fields that were seen.
            (true, None) => Sight::Doubtful,
            (true, Some(before)) => {
                let before = self.found(before, path, &clues.fields, &|_| true);
                if before.shown.is_some() { Sight::Doubtful } else { sight }
            }
        }
    }

    /// The ways to read a path that lead to such a value in a document.
    fn found<'a, 't>(
        &'t self,
        image: Value<'a>,
        path: &[u8],
        fields: &Fields<'a>,
        is_there: &dyn Fn(Value<'_>) -> bool,
    ) -> Readings<'t> {
        let mut readings = Readings::default();
        self.readings_in(image, Visibility::At(&self.root), path, is_there, fields, &mut readings);
        readings
    }

    fn step<'t>(&self, place: Visibility<'t>, name: &[u8]) -> Visibility<'t> {
        let Visibility::At(tree) = place else { return place };
        match (tree.child(name), self.mode) {
            (Some(child), _) if !child.is_leaf() => Visibility::At(child),
            (Some(_), Mode::Include) | (None, Mode::Exclude) => Visibility::All,
            (Some(_), Mode::Exclude) | (None, Mode::Include) => Visibility::Hidden,
        }
    }

    /// Every way to read a path. The first part is a name: a document is no array.
    fn all_readings<'t>(
        &self,
        place: Visibility<'t>,
        path: &[u8],
        is_first: bool,
        readings: &mut Readings<'t>,
    ) {
        if !matches!(place, Visibility::At(_)) {
            return readings.add(place);
        }
        let (first, rest) = split(path, path.iter().position(|byte| *byte == b'.'));
        let as_name = Some(self.step(place, first));
        let as_index = (!is_first && is_index(first)).then_some(place);
        for next in [as_name, as_index].into_iter().flatten() {
            match rest {
                Some(rest) => self.all_readings(next, rest, false, readings),
                None => readings.add(next),
            }
        }
        // A name with a dot in it, which no projection names.
        if rest.is_some() {
            readings.add(self.step(place, path));
        }
    }

    fn readings_in<'a, 't>(
        &self,
        container: Value<'a>,
        place: Visibility<'t>,
        path: &[u8],
        is_there: &dyn Fn(Value<'_>) -> bool,
        fields: &Fields<'a>,
        readings: &mut Readings<'t>,
    ) {
        let dots = path.iter().enumerate().filter(|(_, byte)| **byte == b'.');
        for end in dots.map(|(at, _)| Some(at)).chain([None]) {
            let (first, rest) = split(path, end);
            let next = match container.tag {
                tag::ARRAY if is_index(first) => place,
                tag::ARRAY => continue,
                _ => self.step(place, first),
            };
            match (fields.find(container, first), rest) {
                (Some(value), None) if is_there(value) => match (next, self.mode) {
                    (Visibility::At(_), Mode::Include) if !value.is_container() => {
                        readings.is_bare = true;
                        readings.add(Visibility::Hidden);
                    }
                    _ => readings.add(next),
                },
                (Some(inner), Some(rest)) if inner.is_container() => {
                    self.readings_in(inner, next, rest, is_there, fields, readings);
                }
                _ => {}
            }
        }
    }
}

impl Sight<'_> {
    fn is_shown(&self) -> bool {
        matches!(self, Sight::Shown(_))
    }

    fn is_hidden(&self) -> bool {
        matches!(self, Sight::Hidden)
    }
}

/// The paths that an array of an update names, with their elements.
fn listed<'a>(
    name: &[u8],
    array: Value<'a>,
) -> impl Iterator<Item = (Option<&'a [u8]>, Change<'a>, Value<'a>)> + use<'a> {
    let is_removed = name == b"removedFields";
    array.elements().map(move |(_, element)| match is_removed {
        true => (Some(element.text()), Change::Removed, element),
        false => {
            let field = element.elements().find_key(b"field");
            (field.map(Value::text), Change::Truncated, element)
        }
    })
}

/// A path before and behind a dot; nothing behind: all of it is one name.
fn split(path: &[u8], dot: Option<usize>) -> (&[u8], Option<&[u8]>) {
    match dot {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// Whether an array's element can have this name.
fn is_index(name: &[u8]) -> bool {
    let is_number = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    is_number && (name.len() == 1 || name[0] != b'0')
}
