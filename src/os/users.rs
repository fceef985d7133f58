//! Users and groups by their names in passwd(5) and group(5).

use std::{fs, io};

/// A user, with the ids of its primary group and of its supplementary groups.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// Id of the user.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Ids of all groups, the primary one first.
    pub groups: Vec<u32>,
}

/// Finds a user; `None` if passwd(5) has no such name.
///
/// # Errors
/// `/etc/passwd` cannot be read.
pub fn user(name: &str) -> io::Result<Option<User>> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    Ok(user_of(name, &passwd, &group))
}

/// Finds a user with all groups in the text of passwd(5) and group(5).
fn user_of(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields = |line: &'_ str| -> Vec<String> { line.split(':').map(Into::into).collect() };
    let row = passwd.lines().map(fields).find(|row| row[0] == name)?;
    let (uid, gid) = (row.get(2)?.parse().ok()?, row.get(3)?.parse().ok()?);
    let mut groups = vec![gid];
    groups.extend(
        group
            .lines()
            .map(fields)
            .filter(|row| {
                row.get(3)
                    .is_some_and(|members| members.split(',').any(|member| member == name))
            })
            .filter_map(|row| row.get(2)?.parse::<u32>().ok()),
    );
    Some(User { uid, gid, groups })
}

/// Returns the id of a user in passwd(5), if there is one.
#[must_use]
pub fn user_id(name: &str) -> Option<u32> {
    Some(user(name).ok()??.uid)
}

/// Returns the id of a group in group(5), if there is one.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    let text = fs::read_to_string("/etc/group").ok()?;
    let mut rows = text.lines().map(|line| line.split(':'));
    rows.find_map(|mut row| {
        let found = row.next() == Some(name);
        found.then(|| row.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nmeshd:x:998:997::/:/usr/sbin/nologin\nbad\n";
    const GROUP: &str = "root:x:0:\nmeshd:x:997:\nadm:x:4:syslog,meshd\nx:y:z:meshd\n";

    #[test]
    fn a_user_has_its_own_and_its_further_groups() {
        let user = user_of("meshd", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (998, 997));
        assert_eq!(user.groups, [997, 4]);
        assert_eq!(user_of("mesh", PASSWD, GROUP), None);
        assert_eq!(user_of("bad", PASSWD, GROUP), None);
    }
}
