longtake_unit_test(wire test_wire.c lt_proto)
longtake_unit_test(slab test_slab.c lt_slab)
