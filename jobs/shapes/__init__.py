"""Shapes: what an answer may be, such as JSON under a schema; read, checked and judged in one place for all."""

from endmark.jobs.shapes.shape import SHAPE_COLUMNS, Shape, ShapeKind, read_shape

__all__ = ["SHAPE_COLUMNS", "Shape", "ShapeKind", "read_shape"]
