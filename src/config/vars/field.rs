//! The field of a variable in the settings. Reads the value of the lines into the field and prints it in the form of
//! a file. Compares and copies the field for a reload.

use super::print::Print;
use crate::reader::Reader;

/// Access to the field of one variable in `T`.
pub(crate) struct Field<T: 'static> {
    /// Reads the lines of the variable of this name into its field. Does nothing if the field is read together with
    /// files or other variables (`resolve`, `host`).
    pub(crate) read: fn(&mut Reader<'_>, &'static str, &mut T),
    /// Returns the values that lines of a file would have: none without a line, several for a list, none for a secret.
    pub(crate) print: fn(&T) -> Vec<String>,
    /// True if both have the same value.
    pub(crate) same: fn(&T, &T) -> bool,
    /// Copies the value from the first to the second.
    pub(crate) copy: fn(&T, &mut T),
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

/// Returns a copy of a field.
pub(super) fn copy_of<T: Clone>(value: &T) -> T {
    value.clone()
}

pub(super) fn print<T: Print>(value: &T) -> Vec<String> {
    value.print()
}

/// `field!(PATH: READ, ARGUMENTS; PRINT)`: a field that `forms::READ` reads. Without PRINT its type says how it is printed.
macro_rules! field {
    ($($part:ident).+: $read:ident $(, $argument:expr)*) => {
        field!($($part).+: $read $(, $argument)*; print)
    };
    ($($part:ident).+: $read:ident $(, $argument:expr)*; $print:ident) => {
        Some($crate::vars::field::Field {
            read: |reader, name, to| {
                to.$($part).+ = $crate::vars::forms::$read(reader, name $(, $argument)*);
            },
            print: |from| $crate::vars::forms::$print(&from.$($part).+),
            same: |a, b| a.$($part).+ == b.$($part).+,
            copy: |from, to| to.$($part).+ = $crate::vars::field::copy_of(&from.$($part).+),
        })
    };
}

/// `joint!(PATH)`: a field that is read together with files or other variables.
macro_rules! joint {
    ($($part:ident).+) => {
        Some($crate::vars::field::Field {
            read: |_, _, _| (),
            print: |from| $crate::vars::forms::print(&from.$($part).+),
            same: |a, b| a.$($part).+ == b.$($part).+,
            copy: |from, to| to.$($part).+ = $crate::vars::field::copy_of(&from.$($part).+),
        })
    };
}

/// `hidden!(PATH)`: as `joint!`, and never printed.
macro_rules! hidden {
    ($($part:ident).+) => {
        Some($crate::vars::field::Field {
            read: |_, _, _| (),
            print: |_| Vec::new(),
            same: |a, b| a.$($part).+ == b.$($part).+,
            copy: |from, to| to.$($part).+ = $crate::vars::field::copy_of(&from.$($part).+),
        })
    };
}

/// `bit!(OPTION)`: a bit of the options that this node announces.
macro_rules! bit {
    ($bit:ident) => {{
        const BIT: u32 = meshd_wire::Options::$bit;
        Some($crate::vars::field::Field {
            read: |reader, name, to| {
                let on = $crate::vars::forms::flag(reader, name);
                $crate::vars::forms::set(&mut to.options, BIT, on);
            },
            print: |from| $crate::vars::forms::print(&from.options.has(BIT)),
            same: |a, b| a.options.has(BIT) == b.options.has(BIT),
            copy: |from, to| {
                $crate::vars::forms::set(&mut to.options, BIT, from.options.has(BIT));
            },
        })
    }};
}

/// `checked!(PARSE)`: lines that count for their own node only; here an invalid one is an error.
macro_rules! checked {
    ($parse:expr) => {
        Some($crate::vars::field::Field {
            read: |reader, name, _| drop(reader.each(name, $parse)),
            print: |_| Vec::new(),
            same: |_, _| true,
            copy: |_, _| (),
        })
    };
}

pub(super) use {bit, checked, field, hidden, joint};
