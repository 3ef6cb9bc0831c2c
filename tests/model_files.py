"""Quartz in the formats of SHELX and the PDB, the setting and cell of the demo."""

from __future__ import annotations

SHELX = """\
TITL quartz
CELL 0.0251 4.9137 4.9137 5.4047 90 90 120
ZERR 3 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -Y,X-Y,Z+2/3
SYMM -X+Y,-X,Z+1/3
SYMM Y,X,-Z
SYMM X-Y,-Y,-Z+1/3
SYMM -X,-X+Y,-Z+2/3
SFAC SI O
UNIT 3 6
FVAR 1
SI1 1 0 0.4697 0.833333 10.5 0.0065
O1 2 0.8534 0.5865 0.6191 11 0.0125
HKLF 4
END
"""
PDB = """\
CRYST1    4.914    4.914    5.405  90.00  90.00 120.00 P 32 2 1
ATOM      1 SI   UNK A   1      -1.154   1.999   4.504  1.00  0.51          SI
ATOM      2  O   UNK A   1       2.733   2.530   3.346  1.00  0.99           O
END
"""
