//! `meshctl routes`: shows the owner of each subnet and the route of an address.

use meshd_api::{
    call,
    proto::{RouteRow, SubnetRow},
};

use crate::{
    Exit, Failure, Outcome,
    args::{Format, RoutesCommand},
    context::Context,
    output::{self, Frame, Show},
    table::{Table, or_empty},
};

struct Routes<'a>(&'a [SubnetRow]);

pub(super) fn all(context: &Context) -> Outcome {
    let answer = context.ask(call::Routes {})?;
    let rows = &answer.response;
    output::show(
        context,
        "routes",
        &Frame::from(&answer),
        rows,
        &Routes(rows),
    )
}

/// Returns exit code 4 for an address in no subnet, 1 if all owners are unreachable.
pub(super) fn get(context: &Context, get: RoutesCommand) -> Outcome {
    let RoutesCommand::Get { address } = get;
    let answer = context.ask(call::Route { address })?;
    let route = &answer.response;
    let frame = Frame::from(&answer);
    match context.format {
        Format::Json => output::json("route", &frame, route)?,
        Format::Tsv => output::show(context, "route", &frame, route, &Routes(&route.matches))?,
        Format::Table => {
            let lines = lines(route);
            output::print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
            Exit::Fine
        }
    };
    if route.matches.is_empty() {
        let text = format!("{address} is in no subnet; `meshctl routes` lists all");
        return Err(Failure::new(Exit::Unknown, text));
    }
    let reachable = route.matches.iter().any(|row| row.active && row.reachable);
    Ok(if reachable {
        Exit::Fine
    } else {
        Exit::Negative
    })
}

/// Shows the best match with its path, then the other matches.
fn lines(route: &RouteRow) -> Vec<String> {
    let mut lines = Vec::new();
    for row in &route.matches {
        let (state, owner) = (state(row), owner(row));
        let hop = route
            .nexthop
            .as_ref()
            .filter(|hop| row.active && **hop != owner);
        let hop = hop.map_or_else(String::new, |hop| format!(" through {hop}"));
        let SubnetRow { subnet, weight, .. } = row;
        lines.push(format!(
            "{subnet} -> {owner}{hop} (weight {weight}, {state})"
        ));
    }
    lines
}

fn state(row: &SubnetRow) -> &'static str {
    match (row.owner.is_some(), row.reachable, row.active) {
        (false, ..) => "broadcast",
        (true, false, _) => "unreachable",
        (true, true, true) => "active",
        (true, true, false) => "standby",
    }
}

fn owner(row: &SubnetRow) -> String {
    row.owner.clone().unwrap_or_else(|| "(broadcast)".into())
}

impl Show for Routes<'_> {
    fn human(&self) -> (Vec<String>, Table) {
        let mut table = Table::new(&["SUBNET", "OWNER", ">WEIGHT", "STATE"]);
        for row in self.0 {
            table.row([
                row.subnet.to_string(),
                owner(row),
                row.weight.to_string(),
                state(row).into(),
            ]);
        }
        (Vec::new(), table)
    }

    fn raw(&self) -> Table {
        let mut table = Table::new(&["subnet", "owner", "weight", "reachable", "active"]);
        for row in self.0 {
            table.row([
                row.subnet.to_string(),
                or_empty(row.owner.as_deref()),
                row.weight.to_string(),
                row.reachable.to_string(),
                row.active.to_string(),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_an_address_reads_from_best_to_worst() {
        let row = |owner: &str, weight, active| SubnetRow {
            subnet: "172.20.7.0/24".parse().unwrap(),
            weight,
            owner: Some(owner.into()),
            reachable: true,
            active,
        };
        let route = RouteRow {
            address: "172.20.7.9".parse().unwrap(),
            matches: vec![row("gw_02", 10, true), row("gw_03", 20, false)],
            nexthop: Some("lb".into()),
        };
        assert_eq!(
            lines(&route),
            [
                "172.20.7.0/24 -> gw_02 through lb (weight 10, active)",
                "172.20.7.0/24 -> gw_03 (weight 20, standby)"
            ]
        );
    }
}
