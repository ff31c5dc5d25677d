"""Which pictures of Tux Paint are photographs of single objects, and of what.

Chosen and sorted by eye from the packages named in ``packages.py``; the pictures themselves are
never part of this repository.
"""

from __future__ import annotations

from pretrain.datasets.scenes.contexts import Category, World

DISTRACTOR = "distractor"
"""Kinds with too few pictures to be a category: they are shown, but not annotated."""

TOGETHER = (("food/fruit/apple_green", "food/fruit/apple_red"),)
"""Pictures made of one another, which a split must not part."""

CATEGORIES: tuple[Category, ...] = (
    Category("aircraft", ("sky",), "leaning"),
    Category("antelope", ("savanna", "forest")),
    Category("ape", ("savanna",)),
    Category("apple", ("kitchen", "garden"), "free"),
    Category("ball", ("home", "garden"), "free"),
    Category("berry", ("kitchen", "garden"), "free"),
    Category("big_cat", ("savanna",)),
    Category("bin", ("street", "home")),
    Category("canine", ("farm", "street", "forest")),
    Category("car", ("street",)),
    Category("cattle", ("farm", "savanna")),
    Category("citrus", ("kitchen",), "free"),
    Category("deer", ("forest",)),
    Category("drum", ("home",), "leaning"),
    Category("equine", ("farm", "savanna")),
    Category("fish", ("water",), "leaning"),
    Category("flower", ("garden",), "free"),
    Category("fowl", ("farm",)),
    Category("gnu", ("savanna",)),
    Category("gourd", ("kitchen", "garden"), "free"),
    Category("gravestone", ("street", "garden")),
    Category("insect", ("garden", "forest"), "free"),
    Category("leafy_vegetable", ("kitchen", "garden"), "free"),
    Category("marsupial", ("savanna",)),
    Category("mushroom", ("forest", "kitchen"), "leaning"),
    Category("nut", ("kitchen", "forest"), "free"),
    Category("parrot", ("savanna",), "leaning"),
    Category("penguin", ("water",)),
    Category("pepper", ("kitchen",), "free"),
    Category("pig", ("farm", "forest")),
    Category("planet", ("sky",), "free"),
    Category("rabbit", ("garden", "farm")),
    Category("rodent", ("forest",)),
    Category("root_vegetable", ("kitchen",), "free"),
    Category("sea_mammal", ("water",), "leaning"),
    Category("sheep", ("farm",)),
    Category("shellfish", ("water", "kitchen"), "free"),
    Category("soft_fruit", ("kitchen",), "free"),
    Category("songbird", ("garden", "forest"), "leaning"),
    Category("spacecraft", ("sky",), "free"),
    Category("string_instrument", ("home",), "free"),
    Category("tank", ("street",)),
    Category("tool", ("home",), "free"),
    Category("toy", ("home",), "leaning"),
    Category("tree", ("garden", "forest")),
    Category("truck", ("street",)),
    Category("vessel", ("kitchen", "home")),
    Category("wading_bird", ("savanna", "water")),
    Category("waterbird", ("water", "farm")),
)

WORLD = World(
    CATEGORIES,
    ("kitchen", "home", "street", "garden", "farm", "forest", "savanna", "water", "sky"),
)

CUTOUTS = """
aircraft: military/vehicles/f22_raptor vehicles/flight/balloon360 vehicles/flight/planes/747
antelope: animals/mammals/bovines/goat animals/mammals/bovines/indian_blackbuck
  animals/mammals/bovines/mountaingoat
ape: animals/mammals/apes/chimp animals/mammals/apes/gorilla animals/mammals/apes/tamarin_emperor
apple: food/fruit/apple_fuji food/fruit/apple_granny_smith food/fruit/apple_green
  food/fruit/apple_red food/fruit/apple_sierra_beauty
ball: sports/australian_rules_football sports/basketball sports/cricketball sports/football
  sports/soccer sports/tennis_ball
berry: food/fruit/Cherry_Stella food/fruit/Strawberry2 food/fruit/grapes food/fruit/pomegranate
  food/fruit/raspberry food/fruit/strawberry
big_cat: animals/mammals/cats/lion animals/mammals/cats/lion-2 animals/mammals/cats/tiger
  animals/mammals/cats/tiger_sumatran
bin: household/garbagecan household/home_compost_bin household/wheelie_bin
canine: animals/mammals/dogs/dingo animals/mammals/dogs/dog animals/mammals/dogs/fox
car: vehicles/auto/beetle vehicles/auto/sedan vehicles/auto/sportscar2
cattle: animals/mammals/bovines/bison animals/mammals/bovines/bull animals/mammals/bovines/cow
  animals/mammals/bovines/cow_white animals/mammals/bovines/yak animals/mammals/bovines/zebu
citrus: food/fruit/lemon food/fruit/mandarine food/fruit/orange food/fruit/orange_seville
  food/fruit/sliced_lime food/fruit/sliced_orange
deer: animals/mammals/deer/caribou animals/mammals/deer/deer animals/mammals/deer/doe
  animals/mammals/deer/wapiti
drum: hobbies/music/percussion/cymbal_crash hobbies/music/percussion/drum_tomtom_floor
  hobbies/music/percussion/drumkit
equine: animals/mammals/equines/donkey animals/mammals/equines/donkey_eating
  animals/mammals/equines/horse animals/mammals/equines/zebra
fish: animals/fish/bluegroper animals/fish/butterflyfish animals/fish/clownfish
  animals/fish/coraltrout animals/fish/dolphinfish animals/fish/lionfish animals/fish/moonwrasse
  animals/fish/stripedfish
flower: plants/flowers/adeenia plants/flowers/anemone_red plants/flowers/anthoorium
  plants/flowers/appooppanthady plants/flowers/bolsom plants/flowers/chemparathi
  plants/flowers/daffodil plants/flowers/flower1 plants/flowers/flower10 plants/flowers/flower2
  plants/flowers/flower3 plants/flowers/flower4 plants/flowers/flower5 plants/flowers/flower6
  plants/flowers/flower7 plants/flowers/flower8 plants/flowers/flower9 plants/flowers/iris
  plants/flowers/marigold plants/flowers/pigface plants/flowers/plastic/chuvanna_plastic_poo
  plants/flowers/red-gazania plants/flowers/rose plants/flowers/whitestar-petunia
  plants/flowers/yellow-flower
fowl: animals/birds/albino_peahen animals/birds/chicken_profile animals/birds/guineafowl
  animals/birds/helmeted_guineafowl animals/birds/hen animals/birds/peacock animals/birds/rooster
  animals/birds/turkey
gnu: animals/mammals/bovines/gnu-baby animals/mammals/bovines/gnu-baby-stand
  animals/mammals/bovines/gnu-sitting animals/mammals/bovines/gnu-stand
gourd: food/vegetables/corn food/vegetables/eggplant food/vegetables/pattypan_squash
  food/vegetables/pumpkin_small
gravestone: seasonal/halloween/grave-a seasonal/halloween/grave-b seasonal/halloween/grave-c
  seasonal/halloween/grave-d seasonal/halloween/grave-e seasonal/halloween/grave-f
  seasonal/halloween/grave-g seasonal/halloween/grave-h seasonal/halloween/grave-i
  seasonal/halloween/grave-j
insect: animals/insects/fly animals/insects/grasshopper animals/insects/hornet
  animals/insects/hoverfly animals/insects/mantis animals/insects/xanthia
leafy_vegetable: food/vegetables/broccoli food/vegetables/lettuce food/vegetables/redlettuce
marsupial: animals/marsupials/kangaroo animals/marsupials/koala animals/marsupials/wombat
mushroom: food/vegetables/mushroom plants/mushrooms/cep plants/mushrooms/cep-1
  plants/mushrooms/cep-2
nut: food/nuts/almond food/nuts/pecan food/nuts/walnut food/nuts/walnut_shelled
parrot: animals/birds/adelaide-rosella animals/birds/quetzal animals/birds/rainbow-lorikeet
  animals/birds/tucan
penguin: animals/birds/little-penguin animals/birds/magellanic_penguin animals/birds/penguin
pepper: food/vegetables/chilepepper food/vegetables/pepper food/vegetables/tomato
  food/vegetables/yellowpepper
pig: animals/mammals/pig animals/mammals/pig_golden animals/mammals/pig_golden2
  animals/mammals/wildboar
planet: space/moon/moon_3qt space/moon/moon_crescent space/moon/moon_full space/planets/1_mercury
  space/planets/2_venus space/planets/3_earth space/planets/4_mars space/planets/5_jupiter
  space/planets/6_saturn space/planets/7_uranus space/planets/8_neptune space/planets/9_pluto
rabbit: animals/mammals/rabbit_little animals/mammals/rodents/rabbit
  animals/mammals/rodents/rabbit-2
rodent: animals/mammals/rodents/beaver animals/mammals/rodents/capybara
  animals/mammals/rodents/marmot animals/mammals/rodents/mouse animals/mammals/rodents/rat
  animals/mammals/rodents/squirrel
root_vegetable: food/vegetables/carrot food/vegetables/garlic food/vegetables/garlics
  food/vegetables/onion food/vegetables/potato food/vegetables/yam
sea_mammal: animals/mammals/aquatic/dolphin animals/mammals/aquatic/orca
  animals/mammals/aquatic/otter animals/mammals/aquatic/sea_lion animals/mammals/aquatic/whale
sheep: animals/mammals/bovines/ram animals/mammals/bovines/sheep
  animals/mammals/bovines/sheep_lamb
shellfish: animals/fish/lobster animals/fish/shrimp animals/shellfish/abalone
  animals/shellfish/murray-mussel
soft_fruit: food/fruit/Apricot_whole food/fruit/apricot food/fruit/avocado food/fruit/kiwi
  food/fruit/mango food/fruit/pear
songbird: animals/birds/blackbird animals/birds/crow animals/birds/cuckoo animals/birds/lark
  animals/birds/magpie
spacecraft: space/apollo_lander space/spacewalk space/voyager2
string_instrument: hobbies/music/string/cello hobbies/music/string/guitar2
  hobbies/music/string/guitar_classical hobbies/music/string/guitar_electric
  hobbies/music/string/guitar_electric_bass hobbies/music/string/violin
tank: military/vehicles/bradley military/vehicles/infantry-stryker
  military/vehicles/ww2_german_gun
tool: household/arttools/scissors_small_closed household/arttools/scissors_small_open
  household/tools/hammer household/tools/mallet_metal household/tools/measuring_tape
  household/tools/paintbrush_large household/tools/plyers household/tools/saw
  household/tools/wrench household/tools/wrench_adjustable household/tools/wrench_plumbers
toy: animals/mammals/bears/toys/edward_bear household/rubberduck people/toys/grannysmith
  seasonal/christmas/German_Christmas_toy
tree: plants/trees/birch plants/trees/holm_oak plants/trees/liberia-palm plants/trees/tree336
truck: vehicles/auto/truck vehicles/construction/dumper vehicles/emergency/firetruck
  vehicles/garbagetruck vehicles/masstransit/green_korean_bus
vessel: household/dishes/glass household/dishes/mug household/dishes/pitcher_small
  household/dishes/teapot household/kettle
wading_bird: animals/birds/crowned_crane animals/birds/heron_greatblue
  animals/birds/heron_greatblue_flying animals/birds/nandou animals/birds/ostrich
  animals/birds/pink_flamingo
waterbird: animals/birds/drake animals/birds/duck animals/birds/gander animals/birds/pelican
  animals/birds/pigeon animals/birds/seagull animals/birds/silver-gull
distractor: animals/amphibians/frog animals/amphibians/frog-1 animals/birds/owl
  animals/birds/vulture animals/fish/seahorse animals/insects/Brown_slug
  animals/insects/Woodlouse animals/lizards/iguana animals/mammals/badger
  animals/mammals/bears/bear animals/mammals/bears/european-bear animals/mammals/camel/camel
  animals/mammals/camel/dromedary animals/mammals/elephant animals/mammals/ferret
  animals/mammals/giraffe animals/mammals/hippopotamus animals/mammals/rhino_black
  clothes/clothespin_new clothes/clothespin_old food/fruit/banana food/fruit/cherimoya
  food/fruit/pineapple food/spices/ginger hobbies/binoculars hobbies/camera_35mm
  hobbies/music/brass/trumpet hobbies/music/wind/bassoon household/Lightbulb
  household/arttools/highlighter household/arttools/pen_dryerase household/cylinder
  household/dishes/utensils/nutcracker household/dishes/utensils/pepper_grinder household/key
  household/toilet household/tools/cementmixer household/tools/toolbox medical/mercurythermometer
  medical/stethoscope medical/syringe military/ammunition/old_naval_shell military/fireman240a
  military/paratrooper people/fireman200b plants/eggplant plants/lavender plants/lettuce_bolted
  plants/thyme plants/trees/holly_leaves plants/trees/pinecone plants/trees/rambutan
  seasonal/candle seasonal/christmas/Candy_cane_photo_1 seasonal/christmas/Candy_cane_photo_2
  seasonal/christmas/Christmas_Tree_photo seasonal/christmas/Christmas_pudding
  seasonal/christmas/Mince_Pie seasonal/christmas/Roast_turkey seasonal/christmas/xmaswreath
  sports/rugby_goal_posts sports/tennis_racket sports/trophy_cup town/monuments/inukshuk-photo
  town/uk_post_box town/usps_mailbox vehicles/7spoke256 vehicles/cycle/pink_tricycle
  vehicles/race/indycar vehicles/ship/chineseJunk vehicles/ship/walnutBoat vehicles/wheel_tractor
"""
"""A category and its pictures: paths below ``stamps``, without the suffix .png."""

BACKGROUNDS = {
    "tuxpaint-data": (
        "tuxpaint/templates",
        "burnt_bark cliff corn_maze jellyfish lighthouse mossy_log mudstone "
        "ocean_splash ocean_waves redwoods_above rocks spiders_web sun_behind_clouds "
        "sun_behind_leaves trees_above trees_at_dusk wool_mill_machine",
    ),
    "mate-backgrounds": (
        "backgrounds/mate/nature",
        "Aqua Blinds Dune GreenMeadow RainDrops Storm TwoWings Wood",
    ),
    "lomiri-wallpapers-16.04": (
        "backgrounds",
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly "
        "aitzgorri_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi sunset_by_Aitzol_Berasategi",
    ),
}
"""By package, a folder below ``share`` and its photographs that show no object of a category
large; names without the suffix .jpg."""


def cutouts() -> dict[str, tuple[str, ...]]:
    """The pictures of every category, and the distractors."""
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in CUTOUTS.split():
        if word.endswith(":"):
            name = word.removesuffix(":")
            found[name] = ()
        else:
            found[name] += (word,)
    return found
