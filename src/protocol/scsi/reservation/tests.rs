//! Who may, after what: the state alone. The commands are tested with a unit around it.

use super::*;

const A: &str = "iqn.a,i,0x1";
const B: &str = "iqn.b,i,0x1";
const C: &str = "iqn.c,i,0x1";

fn with(key: u64, service_key: u64) -> Parameters {
    wire::Parameters::parse(0, 24, &[&key.to_be_bytes()[..], &service_key.to_be_bytes(), &[0; 8]].concat()).unwrap()
}

/// A and B (and C) registered with keys 1, 2, 3.
fn registered(ports: &[&str]) -> Reservations {
    let mut state = Reservations::default();
    for (at, port) in ports.iter().enumerate() {
        state.change(port, REGISTER, 0, &with(0, at as u64 + 1)).unwrap();
    }
    state
}

const CONFLICT: Result<Effects, Failure> = Err(Failure::Status(Status::ReservationConflict));

#[test]
fn keys_have_to_match() {
    let mut state = registered(&[A]);
    assert_eq!(state.change(A, REGISTER, 0, &with(9, 5)), CONFLICT);
    assert_eq!(state.change(B, REGISTER, 0, &with(9, 5)), CONFLICT);
    assert_eq!(state.change(B, RESERVE, 1, &with(0, 0)), CONFLICT);
    assert_eq!(state.change(A, RESERVE, 1, &with(2, 0)), CONFLICT);
    assert_eq!(state.generation, 1);
    state.change(A, REGISTER, 0, &with(1, 7)).unwrap();
    state.change(B, REGISTER_AND_IGNORE, 0, &with(99, 8)).unwrap();
    assert_eq!((state.key_of(A), state.key_of(B), state.generation), (Some(7), Some(8), 3));
    assert_eq!(state.change(A, RESERVE, 0, &with(7, 0)), Err(Sense::invalid_cdb(2).into()));
    assert_eq!(state.change(A, RESERVE, 0x11, &with(7, 0)), Err(Sense::invalid_cdb(2).into()));
}

#[test]
fn each_type_lets_pass_whom_the_table_says() {
    // Kind; may a registrant read, write; may a stranger read, write.
    let table = [
        (1, [true, false], [true, false]),
        (3, [false, false], [false, false]),
        (5, [true, true], [true, false]),
        (6, [true, true], [false, false]),
        (7, [true, true], [true, false]),
        (8, [true, true], [false, false]),
    ];
    for (kind, registrant, stranger) in table {
        let mut state = registered(&[A, B]);
        state.change(A, RESERVE, kind, &with(1, 0)).unwrap();
        let may = |port: &str| [state.allows(port, Access::Read), state.allows(port, Access::Write)];
        assert_eq!((may(A), may(B), may(C)), ([true, true], registrant, stranger), "{kind}");
        assert!(state.allows(C, Access::Free));
        assert_eq!(state.holds(B), kind >= 7, "{kind}");
        let again = state.change(B, RESERVE, kind, &with(2, 0));
        assert_eq!(again.is_ok(), kind >= 7, "{kind}");
    }
}

#[test]
fn release_and_unregistration_end_a_reservation() {
    let mut state = registered(&[A, B]);
    state.change(A, RESERVE, 5, &with(1, 0)).unwrap();
    assert_eq!(state.change(B, RELEASE, 5, &with(2, 0)), Ok(Effects::default()));
    let wrong = Condition::INVALID_RELEASE_OF_PERSISTENT_RESERVATION.into();
    assert_eq!(state.change(A, RELEASE, 1, &with(1, 0)), Err(wrong));
    let told = vec![(B.to_owned(), Condition::RESERVATIONS_RELEASED)];
    assert_eq!(state.change(A, RELEASE, 5, &with(1, 0)).unwrap().attentions, told);
    assert_eq!(state.reservation, None);

    state.change(A, RESERVE, 1, &with(1, 0)).unwrap();
    assert_eq!(state.change(A, REGISTER, 0, &with(1, 0)), Ok(Effects::default()));
    assert_eq!((state.reservation.is_some(), state.key_of(A)), (false, None));

    let mut state = registered(&[A, B]);
    state.change(A, RESERVE, 7, &with(1, 0)).unwrap();
    state.change(A, REGISTER, 0, &with(1, 0)).unwrap();
    assert!(state.holds(B) && !state.holds(A));
    state.change(B, REGISTER, 0, &with(2, 0)).unwrap();
    assert_eq!(state.reservation, None);
}

#[test]
fn preempting_takes_over_or_only_removes() {
    let mut state = registered(&[A, B, C]);
    state.change(A, RESERVE, 1, &with(1, 0)).unwrap();
    assert_eq!(state.change(B, PREEMPT, 3, &with(2, 99)), CONFLICT);
    assert_eq!(state.change(B, PREEMPT, 3, &with(2, 0)), Err(Sense::invalid_parameter(8).into()));
    let removed = |port: &str| (port.to_owned(), Condition::REGISTRATIONS_PREEMPTED);
    assert_eq!(state.change(B, PREEMPT, 3, &with(2, 3)).unwrap().attentions, [removed(C)]);
    assert!(state.holds(A) && state.key_of(C).is_none());
    let effects = state.change(B, PREEMPT_AND_ABORT, 3, &with(2, 1)).unwrap();
    assert_eq!((effects.attentions, effects.aborted), (vec![removed(A)], vec![A.to_owned()]));
    assert_eq!(state.reservation, Some(Reservation { kind: Kind::ExclusiveAccess, holder: B.to_owned() }));

    let mut state = registered(&[A, B, C]);
    state.change(A, RESERVE, 8, &with(1, 0)).unwrap();
    state.change(B, PREEMPT, 8, &with(2, 1)).unwrap();
    assert!(state.holds(B) && state.holds(C) && !state.holds(A));
    assert_eq!(state.change(B, PREEMPT, 1, &with(2, 0)).unwrap().attentions, [removed(C)]);
    assert_eq!(state.registrants, [Registrant { port: B.to_owned(), key: 2 }]);
    assert!(state.holds(B) && !state.allows(A, Access::Write));
}

#[test]
fn clearing_and_moving() {
    let mut state = registered(&[A, B]);
    state.change(A, RESERVE, 3, &with(1, 0)).unwrap();
    let to = Parameters { move_to: Some(C.to_owned()), unregister: true, ..with(1, 9) };
    assert_eq!(state.change(B, REGISTER_AND_MOVE, 0, &Parameters { key: 2, ..to.clone() }), CONFLICT);
    state.change(A, REGISTER_AND_MOVE, 0, &to).unwrap();
    assert_eq!((state.holds(C), state.key_of(C), state.key_of(A)), (true, Some(9), None));
    let effects = state.change(B, CLEAR, 0, &with(2, 0)).unwrap();
    assert_eq!(effects.attentions, [(C.to_owned(), Condition::RESERVATIONS_PREEMPTED)]);
    assert!(state.is_empty() && state.reservation.is_none());
}

#[test]
fn registrations_are_bounded() {
    let mut state = Reservations::default();
    for number in 0..REGISTRANTS_MAX {
        state.change(&format!("port {number}"), REGISTER, 0, &with(0, 1)).unwrap();
    }
    let full = Condition::INSUFFICIENT_REGISTRATION_RESOURCES.into();
    assert_eq!(state.change("one more", REGISTER, 0, &with(0, 1)), Err(full));
}
