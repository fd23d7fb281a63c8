//! What Amazon answers, as far as it is needed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::xml::{Pull, Token, decode_text};

/// The group as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) desired: u64,
    pub(super) minimum: u64,
    pub(super) maximum: u64,
    /// Its instances with their states.
    pub(super) members: BTreeMap<String, String>,
    /// What it does not do any more.
    pub(super) suspended: BTreeSet<String>,
}

impl Group {
    /// Those that serve or will: what the desired capacity counts.
    pub(super) fn there(&self) -> BTreeSet<&str> {
        let is_there = |state: &str| state == "InService" || state.starts_with("Pending");
        self.members.iter().filter(|(_, state)| is_there(state)).map(|(name, _)| name.as_str()).collect()
    }

    /// Whether an instance has left it, or is about to be no more.
    pub(super) fn is_gone(&self, instance: &str) -> bool {
        self.members.get(instance).is_none_or(|state| state.starts_with("Terminat"))
    }
}

/// An element: one with text and no others in it, or the end of one with others.
struct Element {
    path: Vec<String>,
    text: Option<String>,
}

impl Element {
    fn is(&self, end: &[&str]) -> bool {
        self.path.iter().map(String::as_str).rev().take(end.len()).eq(end.iter().rev().copied())
    }
}

/// The elements of a whole document, in the order of their ends.
fn elements(xml: &[u8]) -> Option<Vec<Element>> {
    let mut pull = Pull::new(xml).ok()?;
    let (mut path, mut found) = (Vec::new(), Vec::new());
    let mut opened = None;
    loop {
        match pull.next().ok()? {
            Token::Open { name, span } => {
                path.push(String::from_utf8_lossy(name).into_owned());
                opened = Some(span.end);
            }
            Token::Empty { .. } => {}
            Token::Close { span } => {
                let text = opened.take().and_then(|from| decode_text(xml.get(from..span.start)?));
                found.push(Element { path: path.clone(), text: text.map(|text| text.trim().to_owned()) });
                path.pop();
            }
            Token::End => return Some(found),
        }
    }
}

/// Whether it is a whole document: an answer may be cut off on its way.
pub(super) fn is_whole(xml: &[u8]) -> bool {
    elements(xml).is_some_and(|elements| !elements.is_empty())
}

/// The text of the first element whose path ends like this.
pub(super) fn first(xml: &[u8], end: &[&str]) -> Option<String> {
    elements(xml)?.into_iter().find(|element| element.is(end)).and_then(|element| element.text)
}

/// `None` when there is no such group.
pub(super) fn read_group(xml: &[u8]) -> Option<Group> {
    let elements = elements(xml)?;
    let (mut group, mut named) = (Group::default(), 0);
    let (mut instance, mut state) = (None, None);
    for element in &elements {
        let text = element.text.as_deref();
        let number = || text.and_then(|text| text.parse().ok());
        if element.is(&["AutoScalingGroups", "member", "DesiredCapacity"]) {
            (group.desired, named) = (number()?, named + 1);
        } else if element.is(&["AutoScalingGroups", "member", "MinSize"]) {
            (group.minimum, named) = (number()?, named + 1);
        } else if element.is(&["AutoScalingGroups", "member", "MaxSize"]) {
            (group.maximum, named) = (number()?, named + 1);
        } else if element.is(&["SuspendedProcesses", "member", "ProcessName"]) {
            group.suspended.extend(text.map(ToOwned::to_owned));
        } else if element.is(&["Instances", "member", "InstanceId"]) {
            instance = text.map(ToOwned::to_owned);
        } else if element.is(&["Instances", "member", "LifecycleState"]) {
            state = text.map(ToOwned::to_owned);
        } else if element.is(&["Instances", "member"])
            // In whatever order its parts came.
            && let Some(instance) = instance.take()
        {
            group.members.insert(instance, state.take().unwrap_or_default());
        }
    }
    (named == 3).then_some(group)
}

/// The address of an instance itself, not of one of its further interfaces.
pub(super) fn read_address(xml: &[u8], private: bool) -> Option<IpAddr> {
    let element = if private { "privateIpAddress" } else { "ipAddress" };
    first(xml, &["instancesSet", "item", element])?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_group_is_read() {
        let xml = br#"<DescribeAutoScalingGroupsResponse xmlns="http://x/"><DescribeAutoScalingGroupsResult>
          <AutoScalingGroups><member><AutoScalingGroupName>rez</AutoScalingGroupName>
          <WarmPoolConfiguration><MinSize>9</MinSize></WarmPoolConfiguration><MinSize>1</MinSize>
          <MaxSize>5</MaxSize><DesiredCapacity>2</DesiredCapacity><Instances>
          <member><InstanceId>i-1</InstanceId><LifecycleState>InService</LifecycleState></member>
          <member><LifecycleState>Terminating:Wait</LifecycleState><InstanceId>i-2</InstanceId></member>
          <member><LaunchConfigurationName/><InstanceId>i-3</InstanceId><LaunchTemplate><Version>1</Version>
          </LaunchTemplate><LifecycleState>Pending:Wait</LifecycleState></member>
          <member><InstanceId>i-4</InstanceId></member>
          <member><InstanceId>i-5</InstanceId><LifecycleState>Standby</LifecycleState></member>
          </Instances><SuspendedProcesses><member><ProcessName>AZRebalance</ProcessName><SuspensionReason/></member>
          </SuspendedProcesses></member></AutoScalingGroups></DescribeAutoScalingGroupsResult>
          </DescribeAutoScalingGroupsResponse>"#;
        let group = read_group(xml).unwrap();
        assert_eq!((group.minimum, group.desired, group.maximum), (1, 2, 5));
        assert_eq!(group.there(), BTreeSet::from(["i-1", "i-3"]));
        assert!(
            group.is_gone("i-2") && group.is_gone("i-9") && !group.is_gone("i-4") && !group.is_gone("i-5")
        );
        assert!(group.suspended.contains("AZRebalance"));
        for cut in 0..xml.len() {
            assert!(!is_whole(&xml[..cut]), "{cut}");
            assert_eq!(read_group(&xml[..cut]), None, "{cut}");
        }
        for nothing in [&b"<a><AutoScalingGroups/></a>"[..], b"", b"<a>", b"{}"] {
            assert_eq!(read_group(nothing), None);
        }
    }

    #[test]
    fn the_address_is_the_instances_own() {
        let xml = b"<R><reservationSet><item><instancesSet><item><networkInterfaceSet><item>
          <privateIpAddress>10.0.9.9</privateIpAddress></item></networkInterfaceSet>
          <privateIpAddress>10.0.1.4</privateIpAddress><ipAddress>198.51.100.7</ipAddress></item></instancesSet>
          </item></reservationSet></R>";
        assert_eq!(read_address(xml, true), Some([10, 0, 1, 4].into()));
        assert_eq!(read_address(xml, false), Some([198, 51, 100, 7].into()));
        assert_eq!(read_address(b"<R/>", true), None);
    }
}
