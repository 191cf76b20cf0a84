"""Every member of every family: energies, Hamiltonians, steps and flows, made anew by each call of a factory.

A new concrete class gets a line here and with it all checks of its family; `test_members.py` fails where it is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions.transforms as pyro_transforms
import torch
from nflows.transforms import LULinear

from hamflow.energies import (
    BodyKinetic,
    ConditionedEnergy,
    ConstantMass,
    Energy,
    FieldLagrangian,
    FunctionConstraint,
    FunctionEnergy,
    FunctionHamiltonian,
    FunctionLagrangian,
    Hamiltonian,
    JointHamiltonian,
    Lagrangian,
    LegendreHamiltonian,
    MechanicalLagrangian,
    MLPPotential,
    NetworkLagrangian,
    NetworkMass,
    NewtonPotential,
    PairEnergy,
    PairPotential,
    QuadraticKinetic,
    RidgePotential,
    RigidLinks,
    ScaledEnergy,
    SeparableHamiltonian,
)
from hamflow.flow import PhaseFlow, hamiltonian
from hamflow.interop.foreign import ForeignTransform
from hamflow.interop.nflows import from_nflows
from hamflow.interop.zuko import from_zuko
from hamflow.models.lagrangians import AddedMass
from hamflow.steps import (
    COMPOSITIONS,
    LEAPFROG,
    SCHEMES,
    SYMPLECTIC_EULER,
    TRIPLE_JUMP4,
    YOSHIDA4,
    Composition,
    Damped,
    Drift,
    GaussLegendre,
    ImplicitMidpoint,
    LatticeSplitting,
    Lift,
    Rattle,
    Splitting,
    Step,
    VariationalStep,
)
from hamflow.systems import (
    ChargedParticle,
    DoublePendulum,
    HenonHeiles,
    MassSpring,
    NBody,
    Pendulum,
    RelativisticParticle,
    System,
    ThreeBody,
    TwoBody,
    WaveEquation,
)
from tests.parts import (
    MASS,
    Bowl,
    Coupled,
    Metric,
    angles,
    bodies,
    body_masses,
    chain,
    double_well,
    field,
    geodesic,
    layered,
    learned,
    nflows_spline,
    pendulums,
    pyro_coupling,
    shaken,
    slow_arm,
    suited,
    units,
    whitening,
)

# Written like this, after the line above, zuko is imported with the checks of torch's distributions left on.
from zuko.flows import NSF  # isort: skip

#: Classes that only say what a family promises.
ABSTRACT = {Energy, Hamiltonian, Lagrangian, PairEnergy, System, Step, ForeignTransform}


@dataclass(frozen=True)
class Member:
    """One member: how it is made, the size of its variables, and for a step what the checks need beyond that."""

    make: Callable[[], Any]
    dim: int = 2
    dt: float = 0.1
    n_steps: int = 100


LAGRANGIANS = {
    "function": Member(lambda: FunctionLagrangian(lambda q, v: (0.5 * (2 + q.cos()) * v**2 - 0.5 * q**2).sum(-1))),
    "function_magnetic": Member(
        lambda: FunctionLagrangian(lambda q, v: (v**2).sum(-1) + q[..., 0] ** 2 * v[..., 1] + 0.1 * (v**4).sum(-1))
    ),
    "network": Member(lambda: shaken(NetworkLagrangian(2, (8, 6)), 0.1)),
    "network_units": Member(lambda: units(NetworkLagrangian(3, (8,), periodic=(1,))), dim=3),
    "mechanical": Member(
        lambda: MechanicalLagrangian(units(NetworkMass(3, (8, 6), periodic=(1,))), shaken(RidgePotential(3, 4))), dim=3
    ),
    "mechanical_constant": Member(
        lambda: MechanicalLagrangian(
            shaken(ConstantMass(2, MASS, structure="full", learn=True)), shaken(RidgePotential(2, 4))
        )
    ),
    "mechanical_metric": Member(lambda: MechanicalLagrangian(Metric(), FunctionEnergy(double_well))),
    "sum": Member(lambda: shaken(NetworkLagrangian(2, (8,)), 0.1) + FunctionLagrangian(lambda q, v: -double_well(q))),
    "added_mass": Member(lambda: AddedMass(MASS)),
    "legendre": Member(slow_arm),
    "field": Member(lambda: field(FieldLagrangian(0.7, widths=(8,))), dim=6),
    "field_local": Member(lambda: field(FieldLagrangian(0.7, local=True, widths=(8,))), dim=5),
    "field_fixed": Member(lambda: field(FieldLagrangian(0.7, "fixed", widths=(8, 6))), dim=3),
}

ENERGIES = {
    "kinetic": Member(lambda: QuadraticKinetic(2, mass=MASS)),
    "kinetic_learned": Member(lambda: shaken(QuadraticKinetic(3, learn=True)), dim=3),
    "kinetic_full": Member(lambda: shaken(QuadraticKinetic(3, structure="full", learn=True)), dim=3),
    "kinetic_layered": Member(lambda: shaken(QuadraticKinetic(2, learn=True, layers=3, spacing=0.1))),
    "ridge_log_cosh": Member(lambda: shaken(RidgePotential(3, width=8)), dim=3),
    "ridge_softplus": Member(lambda: shaken(RidgePotential(2, width=8, activation="softplus"))),
    "ridge_sine": Member(lambda: shaken(RidgePotential(1, width=8, activation="sine")), dim=1),
    "ridge_layered": Member(lambda: shaken(RidgePotential(2, width=4, layers=3, spacing=0.1))),
    "mlp": Member(lambda: shaken(MLPPotential(3, widths=(8, 6))), dim=3),
    "mlp_orthogonal": Member(lambda: MLPPotential(3, widths=(8, 6), init="orthogonal"), dim=3),
    "mlp_layered": Member(lambda: shaken(MLPPotential(2, widths=(8,), layers=3, spacing=0.1))),
    "scaled": Member(lambda: ScaledEnergy(shaken(RidgePotential(2, width=8)), 2).set_units(MASS, 3 * MASS, 0.2)),
    "function": Member(lambda: FunctionEnergy(double_well)),
    "function_module": Member(lambda: FunctionEnergy(Bowl())),
    "function_closed_form": Member(lambda: FunctionEnergy(lambda q: -q.cos().sum(-1), lambda q: q.sin())),
    "conditioned": Member(
        lambda: ConditionedEnergy(shaken(RidgePotential(5, width=8)), torch.tensor([0.5, -1.0, 2.0])), dim=2
    ),
    "sum": Member(lambda: FunctionEnergy(double_well) + shaken(RidgePotential(2, width=4))),
    "periodic": Member(lambda: angles(3, periodic=(2, 0)), dim=3),
    "bodies_kinetic": Member(lambda: BodyKinetic(3, 2, masses=body_masses()), dim=6),
    "pairs_learned": Member(lambda: shaken(PairPotential(3, 2, widths=(8,), masses=body_masses())), dim=6),
    "pairs_newton": Member(lambda: NewtonPotential(3, 2, masses=body_masses(), gravity=0.5), dim=6),
    "pairs_softened": Member(lambda: NewtonPotential(2, 1, softening=0.3)),
}

# Softened, because random bodies may come close, and weakly cubic, because random stars may escape.
SYSTEMS = {
    "mass_spring": Member(lambda: MassSpring(mass=0.5, stiffness=3.0), dim=1),
    "pendulum": Member(lambda: Pendulum(mass=0.5, length=1.5, gravity=3.0), dim=1),
    "henon_heiles": Member(lambda: HenonHeiles(0.1)),
    "double_pendulum": Member(lambda: DoublePendulum((2.0, 1.0), (2.0, 1.0), gravity=1.0), dt=0.05, n_steps=10),
    "two_body": Member(lambda: TwoBody((0.5, 2.0), gravity=0.5, softening=1.0), dim=4, n_steps=20),
    "three_body": Member(lambda: ThreeBody((0.5, 2.0, 1.0), softening=1.0), dim=6, n_steps=20),
    "n_body": Member(lambda: NBody((0.5, 2.0), softening=1.0, space=3), dim=6, n_steps=20),
    "charged_planar": Member(lambda: ChargedParticle(mass=2.0, charge=-1.5), n_steps=10),
    "charged_in_space": Member(lambda: ChargedParticle(field=(0.3, -0.5, 1.0)), dim=3, n_steps=10),
    "charged_potential": Member(
        lambda: ChargedParticle(mass=2.0, vector_potential=lambda q: 0.3 * (q**2).roll(1, -1), space=2), n_steps=10
    ),
    "wave_equation": Member(lambda: WaveEquation(5, length=5.0, speed=0.8), dim=5),
    "wave_equation_fixed": Member(lambda: WaveEquation(3, 2.0, speed=0.5, boundary="fixed"), dim=3),
    "relativistic": Member(lambda: RelativisticParticle(mass=0.5, c=2.0, space=2)),
    "relativistic_pendulum": Member(
        lambda: RelativisticParticle(potential=FunctionEnergy(lambda q: -q.cos().sum(-1), lambda q: q.sin())), dim=1
    ),
}

HAMILTONIANS = {
    **SYSTEMS,
    "pendulums": Member(pendulums),
    "learned": Member(learned),
    "learned_full_mass": Member(lambda: learned("full")),
    "function": Member(lambda: FunctionHamiltonian(geodesic)),
    "function_module": Member(lambda: FunctionHamiltonian(shaken(Coupled()))),
    "joint": Member(lambda: JointHamiltonian(shaken(MLPPotential(4, widths=(8, 6))))),
    "joint_periodic": Member(lambda: JointHamiltonian(angles(4, periodic=(1,)))),
    "bodies": Member(bodies, dim=6),
    "legendre": Member(lambda: LegendreHamiltonian(LAGRANGIANS["function_magnetic"].make())),
    "legendre_mechanical": Member(lambda: LegendreHamiltonian(LAGRANGIANS["mechanical_constant"].make())),
}

STEPS = {
    **{f"{name}_pendulums": Member(lambda s=scheme: Splitting(pendulums(), s)) for name, scheme in SCHEMES.items()},
    **{f"{name}_learned": Member(lambda s=scheme: Splitting(learned("full"), s)) for name, scheme in SCHEMES.items()},
    "leapfrog_function": Member(
        lambda: Splitting(SeparableHamiltonian(QuadraticKinetic(2, mass=MASS), FunctionEnergy(double_well)))
    ),
    "leapfrog_layered": Member(lambda: Splitting(layered(), LEAPFROG), dt=0.25, n_steps=8),
    "yoshida4_layered": Member(lambda: Splitting(layered(), YOSHIDA4), dt=0.25, n_steps=8),
    "implicit_pendulums": Member(lambda: ImplicitMidpoint(pendulums())),
    "implicit_learned": Member(lambda: ImplicitMidpoint(FunctionHamiltonian(shaken(Coupled()))), n_steps=20),
    "implicit_joint": Member(lambda: ImplicitMidpoint(HAMILTONIANS["joint_periodic"].make()), n_steps=3),
    "lattice_pendulums": Member(lambda: LatticeSplitting(pendulums(), YOSHIDA4, span=64)),
    "lattice_learned": Member(lambda: LatticeSplitting(learned("full"), span=1024)),
    "leapfrog_bodies": Member(lambda: Splitting(bodies()), dim=6),
    "damped_euler": Member(lambda: Damped(Splitting(pendulums(), SYMPLECTIC_EULER), 0.3)),
    "damped_leapfrog": Member(lambda: Damped(Splitting(pendulums()), 0.3, learn=True)),
    "damped_yoshida4": Member(lambda: Damped(Splitting(learned("full"), YOSHIDA4), 0.1)),
    "damped_twice": Member(lambda: Damped(Damped(Splitting(pendulums()), 0.1), 0.2)),
    "damped_unequally": Member(lambda: Damped(Splitting(learned()), torch.tensor([0.1, 0.5]), learn=True)),
    **{
        # Stiff enough for the errors of order 8 to be seen.
        f"{name}_pendulum": Member(lambda f=fractions: Composition(Splitting(Pendulum(0.5, 1.0, 50.0)), f), dim=1)
        for name, fractions in COMPOSITIONS.items()
    },
    "composition_implicit": Member(
        lambda: Composition(ImplicitMidpoint(RelativisticParticle()), TRIPLE_JUMP4), dim=1, n_steps=3
    ),
    "composition_damped": Member(lambda: Composition(Damped(Splitting(Pendulum()), 0.3), TRIPLE_JUMP4), dim=1),
    "gauss1_pendulums": Member(lambda: GaussLegendre(pendulums(), 1), n_steps=20),
    "gauss2_function": Member(lambda: GaussLegendre(FunctionHamiltonian(geodesic), 2), n_steps=20),
    "gauss3_learned": Member(lambda: GaussLegendre(FunctionHamiltonian(shaken(Coupled())), 3), n_steps=20),
    **{
        name: Member(lambda m=member: suited(m.make()), member.dim, member.dt, member.n_steps)
        for name, member in SYSTEMS.items()
    },
    "variational_function": Member(lambda: VariationalStep(LAGRANGIANS["function"].make()), n_steps=10),
    "variational_magnetic": Member(lambda: VariationalStep(LAGRANGIANS["function_magnetic"].make()), n_steps=5),
    "variational_network": Member(lambda: VariationalStep(LAGRANGIANS["network"].make(), "trapezoidal"), n_steps=5),
    "variational_mechanical": Member(lambda: VariationalStep(LAGRANGIANS["mechanical"].make()), dim=3, n_steps=5),
    "variational_constant": Member(lambda: VariationalStep(LAGRANGIANS["mechanical_constant"].make(), "trapezoidal")),
    "variational_legendre": Member(lambda: VariationalStep(slow_arm(), "trapezoidal"), dt=0.05, n_steps=5),
    "variational_composed": Member(
        lambda: Composition(VariationalStep(LAGRANGIANS["function"].make()), TRIPLE_JUMP4), n_steps=3
    ),
    "drift": Member(lambda: Drift(learned("full").kinetic)),
    # A lift integrates nothing: repeated a hundred times an expanding map only magnifies rounding.
    "lift_affine": Member(lambda: Lift(pyro_coupling(pyro_transforms.affine_coupling)), n_steps=3),
    "lift_spline": Member(lambda: Lift(pyro_coupling(pyro_transforms.spline_coupling)), n_steps=2),
    "lift_inverse": Member(lambda: Lift(pyro_coupling(pyro_transforms.affine_coupling).inv), n_steps=3),
    "lift_nflows": Member(lambda: Lift(from_nflows(nflows_spline())), n_steps=3),
    "lift_linear": Member(lambda: Lift(from_nflows(shaken(LULinear(3)))), dim=3, n_steps=3),
}

CONSTRAINED = {
    "pendulum": Member(lambda: Rattle(chain(), RigidLinks([(-1, 0), (0, 1)], [1.0, 0.8], points=2, space=2)), dim=4),
    "midpoint": Member(
        lambda: Rattle(chain(), RigidLinks([(0, 1)], 1.5, points=2, space=2), "midpoint"), dim=4, n_steps=20
    ),
    "surface": Member(
        lambda: Rattle(chain(Metric()), FunctionConstraint(lambda q: (q**2).sum(-1, keepdim=True) / 4 - 1)),
        dim=4,
        n_steps=10,
    ),
}

FLOWS = {
    "helper": Member(lambda: shaken(hamiltonian(4)), dim=4),
    "autonomous": Member(lambda: shaken(hamiltonian(6, n_steps=4, layerwise=False)), dim=6),
    "reversed": Member(lambda: shaken(hamiltonian(4)).reversed(), dim=4),
    "function": Member(lambda: PhaseFlow(STEPS["leapfrog_function"].make(), n_steps=3), dim=4),
    "implicit": Member(lambda: PhaseFlow(STEPS["implicit_pendulums"].make(), n_steps=2), dim=4),
    "damped": Member(lambda: PhaseFlow(STEPS["damped_leapfrog"].make(), n_steps=3), dim=4),
    "damped_reversed": Member(lambda: PhaseFlow(STEPS["damped_unequally"].make(), n_steps=3, reverse=True), dim=4),
    "lift": Member(lambda: PhaseFlow(STEPS["lift_nflows"].make()), dim=4),
    "whitening": Member(whitening, dim=3),
    "nflows": Member(lambda: from_nflows(nflows_spline(3)), dim=3),
    "nflows_context": Member(lambda: from_nflows(nflows_spline(3, context=2), context=torch.ones(2)), dim=3),
    "nflows_reversed": Member(lambda: from_nflows(nflows_spline(3)).reversed(), dim=3),
    "zuko": Member(lambda: from_zuko(NSF(3, transforms=2, bins=4, hidden_features=(8,)).transform), dim=3),
    "zuko_context": Member(
        lambda: from_zuko(NSF(3, 2, transforms=1, bins=4, hidden_features=(8,)).transform, context=torch.ones(2)),
        dim=3,
    ),
}
