//! Fields of a line, without a copy of those that need none.

/// Position of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lab::replay) enum FieldRef {
    /// The line does not have it.
    #[default]
    Absent,
    /// Range of the line.
    Line(u32, u32),
    /// Range of the unescaped texts.
    Unescaped(u32, u32),
}

/// Fields of the last line. Reused, so that a line allocates nothing.
#[derive(Debug, Default)]
pub(in crate::lab::replay) struct Fields {
    refs: Vec<FieldRef>,
    unescaped: Vec<u8>,
}

impl Fields {
    /// Forgets the last line.
    pub(in crate::lab::replay) fn clear(&mut self) {
        self.refs.clear();
        self.unescaped.clear();
    }

    /// Appends a field.
    pub(super) fn push(&mut self, field: FieldRef) {
        self.refs.push(field);
    }

    /// Number of fields.
    pub(super) fn len(&self) -> usize {
        self.refs.len()
    }

    /// Makes room for `len` absent fields.
    pub(super) fn resize(&mut self, len: usize) {
        self.refs.resize(len, FieldRef::Absent);
    }

    /// Sets a field; does nothing beyond the room.
    pub(super) fn set(&mut self, index: usize, field: FieldRef) {
        if let Some(place) = self.refs.get_mut(index) {
            *place = field;
        }
    }

    /// Stores an unescaped text and returns its position.
    pub(super) fn unescaped(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<FieldRef> {
        let start = self.unescaped.len();
        write(&mut self.unescaped)?;
        Some(FieldRef::Unescaped(u32::try_from(start).ok()?, u32::try_from(self.unescaped.len()).ok()?))
    }

    /// Text of a field. `None` if it is absent, empty, or `-`, which logs write for absent values.
    pub(in crate::lab::replay) fn get<'f>(&'f self, line: &'f [u8], index: usize) -> Option<&'f [u8]> {
        let text = match *self.refs.get(index)? {
            FieldRef::Absent => return None,
            FieldRef::Line(start, end) => line.get(start as usize..end as usize)?,
            FieldRef::Unescaped(start, end) => self.unescaped.get(start as usize..end as usize)?,
        };
        (!text.is_empty() && text != b"-").then_some(text)
    }
}

/// Range of a line as a field.
pub(super) fn in_line(start: usize, end: usize) -> FieldRef {
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => FieldRef::Line(start, end),
        _ => FieldRef::Absent,
    }
}
